package screen_test

import (
	"strings"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/screen"
)

func TestAScreenShowsWhatWasDrawn(t *testing.T) {
	for name, c := range map[string]struct{ written, want string }{
		"text":                        {"ab\r\ncd", "ab/cd/"},
		"what is too long goes on":    {"abcdefg", "abcde/fg/"},
		"a full line is one line":     {"abcde\r\nf", "abcde/f/"},
		"scrolling":                   {"a\r\nb\r\nc\r\nd", "b/c/d"},
		"going anywhere":              {"\x1b[2;3Hx\x1b[Hy\x1b[3Gz\x1b[3dw", "y z/  x/   w"},
		"steps":                       {"abc\x1b[2Dx\x1b[By\x1b[Az", "axcz/  y/"},
		"wiping":                      {"abcde\x1b[3G\x1b[K\r\nabcde\x1b[3G\x1b[1K\r\nabcde\x1b[2G\x1b[2X", "ab/   de/a  de"},
		"wiping all":                  {"ab\r\ncd\x1b[2J", "//"},
		"characters in and out":       {"abcde\x1b[2G\x1b[2P\r\nabcde\x1b[2G\x1b[2@", "ade/a  bc/"},
		"lines in and out":            {"a\r\nb\r\nc\x1b[2;1H\x1b[M\x1b[1;1H\x1b[L", "/a/c"},
		"again":                       {"x\x1b[3b", "xxxx//"},
		"a region":                    {"a\r\nb\r\nc\x1b[2;3r\x1b[3;1H\n\x1b[r", "a/c/"},
		"looks and titles":            {"\x1b[1;31ma\x1b[m\x1b]2;title\x07b\x1b]2;x\x1b\\c", "abc//"},
		"the other screen":            {"ab\x1b[?1049h\x1b[Hc", "c//"},
		"what it does not know":       {"\x1b[>1;2ca\x1b[?2026$pb\x1b(Bc\x1b=d", "abcd//"},
		"characters of several bytes": {"…ä", "…ä//"},
	} {
		t.Run(name, func(t *testing.T) {
			whole, pieces := screen.New(5, 3), screen.New(5, 3)
			_, _ = whole.Write([]byte(c.written))
			for i := range len(c.written) {
				_, _ = pieces.Write([]byte{c.written[i]})
			}
			for _, s := range []*screen.Screen{whole, pieces} {
				if got := strings.ReplaceAll(s.Text(), "\n", "/"); got != c.want {
					t.Errorf("it shows %q, want %q", got, c.want)
				}
			}
		})
	}
}

func TestColorsAreCountedAndOtherLooksAreNot(t *testing.T) {
	s := screen.New(5, 3)
	_, _ = s.Write([]byte("\x1b[1ma\x1b[7mb\x1b[0;2mc\x1b[39m"))
	if n := s.Colors(); n != 0 {
		t.Errorf("%d colours", n)
	}
	_, _ = s.Write([]byte("\x1b[31ma\x1b[1;97mb\x1b[48;5;3mc"))
	if n := s.Colors(); n < 3 {
		t.Errorf("%d colours", n)
	}
}
