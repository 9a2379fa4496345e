package gateway

import (
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
)

// window reads limit and offset as Django REST framework does: what is no useful number means the default, a limit above
// the greatest is cut. An offset too great to be served is returned as it is, at most one above the greatest, so that the
// services refuse it.
func window(limit, offset string) (size, skip int32) {
	size, skip = limits.DefaultPage, 0
	if n, ok := number(limit); ok && n > 0 {
		size = min(n, limits.MaxPage)
	}
	if n, ok := number(offset); ok && n > 0 {
		skip = min(n, limits.MaxOffset+1)
	}
	return size, skip
}

// number reads an integer; one that is too great for 32 bits becomes the greatest.
func number(text string) (int32, bool) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return int32(n), true // ParseInt returns the nearest 32-bit number with ErrRange
}

// links are the URLs of the next page, if there are more, and of the one before. They keep the other query parameters.
func (r *request) links(more bool) (next, previous *string) {
	size, skip := window(r.query.Get("limit"), r.query.Get("offset"))
	if more {
		next = r.link(size, skip+size)
	}
	if skip > 0 {
		previous = r.link(size, max(0, skip-size))
	}
	return next, previous
}

// before reports whether the page that was asked for ends before the last of so many.
func (r *request) before(count int64) bool {
	size, skip := window(r.query.Get("limit"), r.query.Get("offset"))
	return int64(skip)+int64(size) < count
}

func (r *request) link(size, skip int32) *string {
	query := maps.Clone(r.query)
	query.Set("limit", strconv.Itoa(int(size)))
	query.Set("offset", strconv.Itoa(int(skip)))
	if skip == 0 {
		query.Del("offset")
	}
	target := *r.url
	target.RawQuery = query.Encode()
	link := target.String()
	return &link
}

// cut takes a page out of a list that is here as a whole.
func cut[T any](all []T, size, skip int32) []T {
	from := min(int(skip), len(all))
	return all[from:min(from+int(size), len(all))]
}

// truth reads a boolean query parameter; nothing is false.
func truth(text string) (bool, error) {
	switch text {
	case "":
		return false, nil
	case "true", "True", "TRUE", "t", "1", "yes", "on":
		return true, nil
	case "false", "False", "FALSE", "f", "0", "no", "off":
		return false, nil
	default:
		return false, fmt.Errorf("%q is not a boolean", text)
	}
}

// filters collects what is wrong with the query parameters of a list.
type filters struct{ violations []errs.Violation }

func (f *filters) fail(field, rule string) {
	f.violations = append(f.violations, errs.Violation{Field: field, Rule: rule})
}

func (f *filters) err() error {
	if len(f.violations) == 0 {
		return nil
	}
	return errs.Invalid(f.violations...)
}
