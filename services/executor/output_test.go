package executor

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sluice-tasks/sluice/pkg/limits"
)

func TestTakeHasAllThatWasWrittenBefore(t *testing.T) {
	c, w, err := newCapture()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		want := strings.Repeat(fmt.Sprint(i%10), i*7)
		if _, err := w.WriteString(want); err != nil {
			t.Fatal(err)
		}
		if got := c.take(); got.text != want || got.truncated {
			t.Fatalf("%d: took %d bytes, want %d", i, len(got.text), len(want))
		}
	}
	if _, err := w.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	c.close() // although the other end is still open, as it is when a descendant survives
	if got := c.take(); got.text != "last words" {
		t.Errorf("took %q", got.text)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestLastPartIsStorable(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		limit int
		want  string
		cut   bool
	}{
		"short":            {"abc", 3, "abc", false},
		"long":             {"abcd", 3, "bcd", true},
		"not through an ä": {"xäb", 2, "b", true},
		"invalid":          {"a\xffb", 10, "a\uFFFDb", false},
		"grows":            {"\xff.\xff.", 5, ".\uFFFD.", true},
		"NUL":              {"a\x00b", 10, "a\uFFFDb", false},
		"empty":            {"", 3, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, cut := lastPart(c.text, c.limit)
			if got != c.want || cut != c.cut || !utf8.ValidString(got) {
				t.Errorf("%q, %v, want %q, %v", got, cut, c.want, c.cut)
			}
		})
	}
	if got, _ := lastPart(strings.Repeat("\xff.", limits.MaxLog), limits.MaxLog); len(got) > limits.MaxLog {
		t.Errorf("%d bytes", len(got))
	}
}

func TestMemoryForgetsTheOldest(t *testing.T) {
	var m memory
	at := func(i int) claim { return claim{task: "t", number: int64(i)} }
	for i := range 3 * rememberedClaims {
		m.add(at(i))
	}
	if m.has(at(2*rememberedClaims-1)) || !m.has(at(2*rememberedClaims)) || len(m.known) != rememberedClaims {
		t.Errorf("remembers %d claims", len(m.known))
	}
}
