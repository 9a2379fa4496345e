package telemetry

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-tasks/sluice/pkg/telemetry/tasktrace"
)

const (
	// barWidth is how many characters the whole time of a trace has.
	barWidth = 40
	// maxNameWidth and maxValue bound what is shown of a name, with its indentation, and of an attribute, in characters.
	maxNameWidth = 40
	maxValue     = 80
)

// Waterfall is a trace as text: when it began and how long it took, then a line for each span, below its parent, with a bar on the
// common scale of time, its duration, and what is worth knowing of it. An empty line ends it.
//
//	trace 4bf92f3577b34da6a3ce929d0e0e4736  2026-11-23 04:50:01.123 UTC  5.02s
//	dispatch                 |▪                                       |   3.1ms  …
//	  wait for resources     |░░░░░░░░░░░░░░░░                        |   2.01s  …
//	  run                    |                ████████████████████████|   3.00s  …
func Waterfall(spans []sdktrace.ReadOnlySpan) string {
	if len(spans) == 0 {
		return ""
	}
	lines := arrange(spans)
	begin, end := spans[0].StartTime(), spans[0].EndTime()
	width := 0
	for _, l := range lines {
		if l.span.StartTime().Before(begin) {
			begin = l.span.StartTime()
		}
		if l.span.EndTime().After(end) {
			end = l.span.EndTime()
		}
		width = max(width, utf8.RuneCountInString(l.label()))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "trace %s  %s  %s\n", spans[0].SpanContext().TraceID(), begin.UTC().Format("2006-01-02 15:04:05.000 MST"), took(end.Sub(begin)))
	for _, l := range lines {
		from, length := l.span.StartTime().Sub(begin), l.span.EndTime().Sub(l.span.StartTime())
		line := fmt.Sprintf("%-*s |%s| %7s  %s", width, l.label(), bar(l.span.Name(), from, length, end.Sub(begin)), took(length), about(l.span))
		text.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	text.WriteString("\n")
	return text.String()
}

// line is a span and how deep it is.
type line struct {
	span  sdktrace.ReadOnlySpan
	depth int
}

// label is the span's name, below its parent's, without the package of a method's.
func (l line) label() string {
	name := flat(l.span.Name())
	if service, method, is := strings.Cut(name, "/"); is && !strings.Contains(service, " ") {
		name = service[strings.LastIndexByte(service, '.')+1:] + "/" + method
	}
	return short(strings.Repeat("  ", l.depth)+name, maxNameWidth)
}

// arrange puts spans below their parents, and those of one parent in the order in which they began. A span whose parent is not here,
// because another process made it, is at the top.
func arrange(spans []sdktrace.ReadOnlySpan) (lines []line) {
	here := make(map[trace.SpanID]bool, len(spans))
	for _, s := range spans {
		here[s.SpanContext().SpanID()] = true
	}
	below := make(map[trace.SpanID][]sdktrace.ReadOnlySpan)
	for _, s := range spans {
		parent := s.Parent().SpanID()
		if !here[parent] || parent == s.SpanContext().SpanID() {
			parent = trace.SpanID{}
		}
		below[parent] = append(below[parent], s)
	}
	var add func(parent trace.SpanID, depth int)
	add = func(parent trace.SpanID, depth int) {
		children := below[parent]
		delete(below, parent) // so that a circle ends
		slices.SortStableFunc(children, inOrder)
		for _, s := range children {
			lines = append(lines, line{s, depth})
			add(s.SpanContext().SpanID(), depth+1)
		}
	}
	add(trace.SpanID{}, 0)
	return lines
}

// inOrder is the order of beginnings; of spans that began in the same moment, that of a task's life.
func inOrder(a, b sdktrace.ReadOnlySpan) int {
	life := []string{tasktrace.Dispatch, tasktrace.WaitResources, tasktrace.WaitWorker, tasktrace.Run, tasktrace.Finish}
	return cmp.Or(a.StartTime().Compare(b.StartTime()), cmp.Compare(slices.Index(life, a.Name()), slices.Index(life, b.Name())))
}

func sortByStart(falls [][]sdktrace.ReadOnlySpan) {
	first := func(spans []sdktrace.ReadOnlySpan) time.Time {
		return slices.MinFunc(spans, inOrder).StartTime()
	}
	slices.SortFunc(falls, func(a, b []sdktrace.ReadOnlySpan) int { return first(a).Compare(first(b)) })
}

// bar shows when something was, of a whole. However short it was, there is something to see.
func bar(name string, from, length, whole time.Duration) string {
	sign := "▪"
	switch name {
	case tasktrace.WaitResources, tasktrace.WaitWorker:
		sign = "░"
	case tasktrace.Run:
		sign = "█"
	}
	if whole <= 0 {
		whole = 1
	}
	column := func(at time.Duration) float64 { return float64(at) / float64(whole) * barWidth }
	begin := min(int(column(from)), barWidth-1)
	cells := max(1, int(math.Round(column(from+length)))-begin)
	cells = min(cells, barWidth-begin)
	return strings.Repeat(" ", begin) + strings.Repeat(sign, cells) + strings.Repeat(" ", barWidth-begin-cells)
}

// took is a duration in three or four digits.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + took(-d)
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1fms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// label is what an attribute is called in a waterfall. Ours have short names, or none if they are shown in another way.
func label(key attribute.Key) string {
	switch key {
	case tasktrace.TaskName:
		return "name"
	case tasktrace.TaskID:
		return "task"
	case tasktrace.Domain:
		return "domain"
	case tasktrace.CorrelationID:
		return "correlation_id"
	case tasktrace.Exclusive:
		return "exclusive"
	case tasktrace.Shared:
		return "shared"
	case tasktrace.BlockerTask:
		return "behind"
	case tasktrace.BlockerResource:
		return "for"
	case tasktrace.Executor:
		return "on"
	case tasktrace.Attempt:
		return "attempt"
	case tasktrace.Outcome, tasktrace.ErrorCode:
		return ""
	case "http.response.status_code":
		return "status"
	case "rpc.grpc.status_code":
		return "code"
	case "db.query.text":
		return "query"
	case "http.request.method", "http.route", "rpc.system", "rpc.service", "rpc.method", "db.system.name", "db.operation.name":
		return "" // the span's name has them
	}
	return flat(string(key)) // of a handler's own
}

// about is what is worth knowing of a span: what became of it first. What a task is stands once, where it was dispatched.
func about(s sdktrace.ReadOnlySpan) string {
	var words []string
	known := make(map[attribute.Key]attribute.Value, len(s.Attributes()))
	for _, a := range s.Attributes() {
		known[a.Key] = a.Value
	}
	if outcome, has := known[tasktrace.Outcome]; has {
		words = append(words, flat(outcome.String()))
	}
	if code, has := known[tasktrace.ErrorCode]; has {
		words = append(words, short(flat(code.String()), maxValue))
	}
	if s.Status().Code == codes.Error {
		words = append(words, "error: "+short(cmp.Or(flat(s.Status().Description), "no description"), maxValue))
	}
	for _, a := range s.Attributes() {
		name := label(a.Key)
		switch text := value(a.Value); {
		case name == "", text == "":
		case a.Key == tasktrace.Attempt && text == "1":
		case s.Name() != tasktrace.Dispatch && repeated(a.Key):
		case a.Key == tasktrace.Domain && text == "default", a.Key == "rpc.grpc.status_code" && text == "0":
		default:
			words = append(words, name+"="+short(text, maxValue))
		}
	}
	return strings.Join(words, "  ")
}

// value is an attribute's, on one line. That a task shares its domain goes without saying.
func value(v attribute.Value) string {
	if v.Type() != attribute.STRINGSLICE {
		return flat(v.String())
	}
	return flat(strings.Join(slices.DeleteFunc(v.AsStringSlice(), func(resource string) bool {
		return strings.HasPrefix(resource, "prn:core.domain:")
	}), ", "))
}

// flat is text for one line of a terminal, which obeys none of it: much of what is shown is what somebody sent.
func flat(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return utf8.RuneError
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
}

// repeated are attributes that each span of a task has, so that it can be searched for.
func repeated(key attribute.Key) bool {
	switch key {
	case tasktrace.TaskName, tasktrace.TaskID, tasktrace.Domain, tasktrace.CorrelationID, tasktrace.Exclusive, tasktrace.Shared:
		return true
	}
	return false
}

func short(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}
