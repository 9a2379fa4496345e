package task

import (
	"strconv"
	"strings"
)

// Satisfies reports whether an executor with the components has fits a task that needs the versions need: every component
// is there, in at least the version asked for.
func Satisfies(has, need map[string]string) bool {
	for component, lowest := range need {
		version, there := has[component]
		if !there || CompareVersions(version, lowest) < 0 {
			return false
		}
	}
	return true
}

// CompareVersions orders versions by their dot-separated parts: numbers as numbers (3.9 < 3.10), a missing part as 0, and
// anything else by its text, a number before it. It returns -1, 0 or 1.
func CompareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if c := comparePart(part(as, i), part(bs, i)); c != 0 {
			return c
		}
	}
	return 0
}

func part(parts []string, i int) string {
	if i < len(parts) {
		return parts[i]
	}
	return "0"
}

func comparePart(a, b string) int {
	an, aErr := strconv.ParseUint(a, 10, 64)
	bn, bErr := strconv.ParseUint(b, 10, 64)
	switch {
	case aErr == nil && bErr == nil && an < bn:
		return -1
	case aErr == nil && bErr == nil && an > bn:
		return 1
	case aErr == nil && bErr == nil:
		return 0
	case aErr == nil:
		return -1
	case bErr == nil:
		return 1
	default:
		return strings.Compare(a, b)
	}
}
