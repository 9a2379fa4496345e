package executor

import (
	"fmt"
	"math/rand/v2"
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

func TestATailIsStorable(t *testing.T) {
	for name, c := range map[string]struct {
		parts []string
		want  string
	}{
		"nothing":                       {nil, ""},
		"plain":                         {[]string{"ab", "c"}, "abc"},
		"a character in two parts":      {[]string{"x\xc3", "\xa4y"}, "xäy"},
		"a character in four parts":     {[]string{"\xf0", "\x9f", "\x9a", "\xb0"}, "🚰"},
		"a part whose rest never comes": {[]string{"a\xf0\x9f"}, "a\uFFFD"},
		"a part with another rest":      {[]string{"\xc3", "b"}, "\uFFFDb"},
		"invalid":                       {[]string{"a\xffb\xff\xffc"}, "a\uFFFDb\uFFFDc"},
		"only what continues":           {[]string{"\xa4\xa4\xa4\xa4"}, "\uFFFD"},
		"NUL":                           {[]string{"a\x00b\x00\x00"}, "a\uFFFDb\uFFFD\uFFFD"},
	} {
		t.Run(name, func(t *testing.T) {
			var kept tail
			for _, part := range c.parts {
				kept.add([]byte(part))
				if now := kept.output(); !utf8.ValidString(now.text) || now.written != int64(len(now.text)) {
					t.Errorf("on the way it is %q, of %d bytes", now.text, now.written)
				}
			}
			kept.end()
			want := output{text: c.want, written: int64(len(c.want))}
			if got := kept.output(); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// Whoever has an older output finds in a newer one what was written since, by the positions alone.
func TestTheEndOfATailIsWhereItWas(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"x", "ä", "🚰", "\xff", "\x00", "line\n", "\xf0\x9f", strings.Repeat("long ä ", 3000)}
	var kept tail
	var before output
	for i := range 4000 {
		piece := pieces[random.IntN(len(pieces))]
		if i%10 != 0 && len(piece) > 100 {
			continue
		}
		kept.add([]byte(piece))
		now := kept.output()
		if len(now.text) > limits.MaxLog || now.truncated != (int64(len(now.text)) < now.written) || !utf8.ValidString(now.text) {
			t.Fatalf("%d bytes of %d, truncated %v", len(now.text), now.written, now.truncated)
		}
		news := now.written - before.written
		if old, overlap := strings.CutSuffix(now.text, now.text[int64(len(now.text))-news:]); !overlap || !strings.HasSuffix(before.text, old) {
			t.Fatalf("after %d bytes more the text before them is another one", news)
		}
		before = now
	}
	if !before.truncated {
		t.Error("it never became too long")
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
