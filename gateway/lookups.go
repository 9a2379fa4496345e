package gateway

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxPattern bounds a regular expression, in bytes: it is compiled for each request.
const maxPattern = 1024

// predicates makes the filters of a collection that is here as a whole.
func predicates[V any]() filterset[func(V) bool] {
	type predicate = func(V) bool
	return filterset[predicate]{
		by: map[string]reader[predicate]{},
		all: func(parts []predicate) predicate {
			return func(v V) bool { return matches(v, parts) }
		},
		any: func(parts []predicate) predicate {
			return func(v V) bool { return slices.ContainsFunc(parts, func(p predicate) bool { return p(v) }) }
		},
		not: func(part predicate) predicate { return func(v V) bool { return !part(v) } },
	}
}

// matches reports whether all of the conditions match.
func matches[V any](v V, conditions []func(V) bool) bool {
	return !slices.ContainsFunc(conditions, func(condition func(V) bool) bool { return !condition(v) })
}

// textLookups adds the lookups of a text that a member has. lookups are those of Pulp's names without their underscores; "" is equality.
func textLookups[V any](s filterset[func(V) bool], parameter string, of func(V) string, lookups ...string) {
	for _, lookup := range lookups {
		name := strings.TrimSuffix(parameter+"__"+lookup, "__")
		s.by[name] = func(value string) ([]func(V) bool, error) {
			match, err := textMatch(lookup, value)
			if err != nil || match == nil {
				return nil, err
			}
			return []func(V) bool{func(v V) bool { return match(of(v)) }}, nil
		}
	}
}

// textMatch is nil if the value asks for nothing.
func textMatch(lookup, value string) (func(string) bool, error) {
	lower := strings.ToLower(value)
	switch lookup {
	case "":
		return func(text string) bool { return text == value }, nil
	case "iexact":
		return func(text string) bool { return strings.EqualFold(text, value) }, nil
	case "in":
		names := split(value)
		if len(names) == 0 {
			return nil, nil
		}
		return func(text string) bool { return slices.Contains(names, text) }, nil
	case "contains":
		return func(text string) bool { return strings.Contains(text, value) }, nil
	case "icontains":
		return func(text string) bool { return strings.Contains(strings.ToLower(text), lower) }, nil
	case "startswith":
		return func(text string) bool { return strings.HasPrefix(text, value) }, nil
	case "istartswith":
		return func(text string) bool { return strings.HasPrefix(strings.ToLower(text), lower) }, nil
	case "regex":
		return pattern(value)
	case "iregex":
		return pattern("(?i)" + value)
	default:
		return nil, fmt.Errorf("make a filter: there is no lookup %q", lookup)
	}
}

// pattern compiles a regular expression in Go's syntax, which is Python's without what could take for ever.
func pattern(text string) (func(string) bool, error) {
	if len(text) > maxPattern {
		return nil, wrong("Must be at most %d bytes, has %d.", maxPattern, len(text))
	}
	expression, err := regexp.Compile(text)
	if err != nil {
		return nil, valueError("Enter a valid regular expression.")
	}
	return expression.MatchString, nil
}

// timeLookups adds the lookups of a time that a member has, nil if it has none.
func timeLookups[V any](s filterset[func(V) bool], parameter string, of func(V) *timestamppb.Timestamp) {
	// compared is what the time is compared with at the precision of what clients are shown.
	compared := func(lookup string, holds func(order int) bool) {
		s.by[parameter+lookup] = func(value string) ([]func(V) bool, error) {
			if _, err := readInstant(value); err != nil {
				return nil, err
			}
			limit, _ := parseTime(value) // it has just been read
			return []func(V) bool{func(v V) bool { return of(v) != nil && holds(shownTime(of(v)).Compare(limit)) }}, nil
		}
	}
	compared("", func(order int) bool { return order == 0 })
	compared("__lt", func(order int) bool { return order < 0 })
	compared("__lte", func(order int) bool { return order <= 0 })
	compared("__gt", func(order int) bool { return order > 0 })
	compared("__gte", func(order int) bool { return order >= 0 })
	s.by[parameter+"__range"] = func(value string) ([]func(V) bool, error) {
		if _, err := readRange(value); err != nil {
			return nil, err
		}
		ends := split(value)
		from, _ := parseTime(ends[0])
		to, _ := parseTime(ends[1])
		return []func(V) bool{func(v V) bool {
			return of(v) != nil && !shownTime(of(v)).Before(from) && !shownTime(of(v)).After(to)
		}}, nil
	}
	s.by[parameter+"__isnull"] = func(value string) ([]func(V) bool, error) {
		null, err := readTruth(value)
		if err != nil {
			return nil, err
		}
		return []func(V) bool{func(v V) bool { return (of(v) == nil) == (null == "true") }}, nil
	}
}

// shownTime is a time as clients see it: without what is below a microsecond.
func shownTime(t *timestamppb.Timestamp) time.Time { return t.AsTime().Truncate(time.Microsecond) }

// idLookups adds pulp_id__in, pulp_href__in and prn__in of members of a collection.
func idLookups[V any](s filterset[func(V) bool], h hrefs, collection, model, what string, of func(V) string) {
	for parameter, read := range map[string]func(string) (string, error){
		"pulp_id__in": readID, "prn__in": readPRN(model), "pulp_href__in": h.reading(collection, model, what),
	} {
		s.by[parameter] = func(value string) ([]func(V) bool, error) {
			ids, err := each(read)(value)
			if err != nil || len(ids) == 0 {
				return nil, err
			}
			return []func(V) bool{func(v V) bool { return slices.Contains(ids, of(v)) }}, nil
		}
	}
}

// truthLookup adds a filter on something that a member is or is not.
func truthLookup[V any](s filterset[func(V) bool], parameter string, of func(V) bool) {
	s.by[parameter] = func(value string) ([]func(V) bool, error) {
		wanted, err := readTruth(value)
		if err != nil {
			return nil, err
		}
		return []func(V) bool{func(v V) bool { return of(v) == (wanted == "true") }}, nil
	}
}
