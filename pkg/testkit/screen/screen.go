// Package screen is what a terminal shows that was written to: for tests of programs that draw.
//
// # Owns
//
// The characters of one screen, and the place of the cursor. It knows the control sequences that programs draw with; colours and other
// looks are only counted, and what asks the terminal something is not answered. All characters are one column wide.
//
// # Failure
//
// What it does not know it passes over.
package screen

import (
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Screen is a terminal's. It is safe for concurrent use.
type Screen struct {
	mu            sync.Mutex
	width, height int
	cells         [][]rune
	x, y          int
	// wrap: the last column was written, the next character begins a line.
	wrap           bool
	top, bottom    int // of what scrolls
	savedX, savedY int
	last           rune
	colors         int
	rest           []byte // of a sequence that has not come in whole
}

// New makes an empty screen.
func New(width, height int) *Screen {
	s := &Screen{}
	s.Resize(width, height)
	return s
}

// Resize empties the screen and gives it another size, as a program that is told so draws it anew.
func (s *Screen) Resize(width, height int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.width, s.height, s.top, s.bottom = width, height, 0, height-1
	s.x, s.y, s.wrap = 0, 0, false
	s.cells = make([][]rune, height)
	for y := range s.cells {
		s.cells[y] = blank(width)
	}
}

// Text is what is to be seen, without blanks at the ends of lines.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := make([]string, s.height)
	for y, row := range s.cells {
		lines[y] = strings.TrimRight(string(row), " ")
	}
	return strings.Join(lines, "\n")
}

// Colors is how often a colour was asked for.
func (s *Screen) Colors() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.colors
}

// Write is what a program writes to the terminal. A sequence may come in pieces.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, p...)
	for len(s.rest) > 0 {
		n := s.one(s.rest)
		if n == 0 {
			break
		}
		s.rest = s.rest[n:]
	}
	return len(p), nil
}

// one takes in one character or sequence, and returns how long it was; 0 if it is not there in whole.
func (s *Screen) one(text []byte) int {
	switch c := text[0]; {
	case c == 0x1b:
		return s.escape(text)
	case c < ' ' || c == 0x7f:
		s.control(c)
		return 1
	case !utf8.FullRune(text):
		return 0
	}
	r, n := utf8.DecodeRune(text)
	s.put(r)
	return n
}

func (s *Screen) put(r rune) {
	if s.wrap {
		s.x, s.wrap = 0, false
		s.down()
	}
	s.cells[s.y][s.x], s.last = r, r
	if s.x == s.width-1 {
		s.wrap = true
	} else {
		s.x++
	}
}

func (s *Screen) control(c byte) {
	switch c {
	case '\r':
		s.x = 0
	case '\n', '\v', '\f':
		s.down()
	case '\b':
		s.x = max(0, s.x-1)
	case '\t':
		s.x = min(s.width-1, s.x/8*8+8)
	default:
		return
	}
	s.wrap = false
}

// down goes to the next line, and scrolls at the last one.
func (s *Screen) down() {
	if s.y == s.bottom {
		s.remove(s.top, 1)
	} else {
		s.y = min(s.y+1, s.height-1)
	}
}

// remove takes lines out of what scrolls, from one on: what is below comes up.
func (s *Screen) remove(from, n int) {
	for range min(n, s.bottom-from+1) {
		copy(s.cells[from:s.bottom+1], s.cells[from+1:s.bottom+1])
		s.cells[s.bottom] = blank(s.width)
	}
}

// insert puts empty lines into what scrolls.
func (s *Screen) insert(from, n int) {
	for range min(n, s.bottom-from+1) {
		copy(s.cells[from+1:s.bottom+1], s.cells[from:s.bottom])
		s.cells[from] = blank(s.width)
	}
}

func blank(width int) []rune {
	row := make([]rune, width)
	for x := range row {
		row[x] = ' '
	}
	return row
}

func (s *Screen) escape(text []byte) int {
	if len(text) < 2 {
		return 0
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			if text[i] >= 0x40 && text[i] <= 0x7e {
				s.sequence(string(text[2:i]), text[i])
				return i + 1
			}
		}
		return 0
	case ']', 'P', '_', '^', 'X': // strings, which end with BEL or ESC \
		for i := 2; i < len(text); i++ {
			if text[i] == 0x07 {
				return i + 1
			}
			if text[i] == '\\' && text[i-1] == 0x1b {
				return i + 1
			}
		}
		return 0
	case '(', ')', '*', '+', '#', ' ', '%':
		if len(text) < 3 {
			return 0
		}
		return 3
	case '7':
		s.savedX, s.savedY = s.x, s.y
	case '8':
		s.x, s.y, s.wrap = s.savedX, s.savedY, false
	case 'D':
		s.down()
	case 'E':
		s.x = 0
		s.down()
	case 'M':
		if s.y == s.top {
			s.insert(s.top, 1)
		} else {
			s.y = max(0, s.y-1)
		}
	}
	return 2
}

// sequence does what a control sequence says.
func (s *Screen) sequence(parameters string, final byte) {
	if final == 'm' {
		s.look(parameters)
		return
	}
	if strings.HasPrefix(parameters, "?") {
		if strings.Contains(parameters, "1049") {
			s.erase(0, 0, s.height-1, s.width-1) // another screen
		}
		return
	}
	if strings.ContainsAny(parameters, "<=>!\"$' ") {
		return
	}
	numbers := strings.Split(parameters, ";")
	number := func(i, usual int) int {
		if i < len(numbers) {
			if n, err := strconv.Atoi(numbers[i]); err == nil && n > 0 {
				return n
			}
		}
		return usual
	}
	n := number(0, 1)
	wrapped := s.wrap
	s.wrap = false
	switch final {
	case 'H', 'f':
		s.y, s.x = n-1, number(1, 1)-1
	case 'A':
		s.y -= n
	case 'B', 'e':
		s.y += n
	case 'C', 'a':
		s.x += n
	case 'D':
		s.x -= n
	case 'E':
		s.x, s.y = 0, s.y+n
	case 'F':
		s.x, s.y = 0, s.y-n
	case 'G', '`':
		s.x = n - 1
	case 'd':
		s.y = n - 1
	case 'I':
		s.x = (s.x/8 + n) * 8
	case 'Z':
		s.x = (s.x+7)/8*8 - 8*n
	case 'J':
		s.wipe(number(0, 0))
	case 'K':
		s.wipeLine(number(0, 0))
	case 'X':
		s.erase(s.y, s.x, s.y, min(s.x+n, s.width)-1)
	case 'P':
		row := s.cells[s.y]
		copy(row[s.x:], row[min(s.x+n, s.width):])
		s.erase(s.y, max(s.x, s.width-n), s.y, s.width-1)
	case '@':
		row := s.cells[s.y]
		copy(row[min(s.x+n, s.width):], append([]rune(nil), row[s.x:]...))
		s.erase(s.y, s.x, s.y, min(s.x+n, s.width)-1)
	case 'L':
		s.insert(s.y, n)
	case 'M':
		s.remove(s.y, n)
	case 'S':
		s.remove(s.top, n)
	case 'T':
		s.insert(s.top, n)
	case 'b':
		s.wrap = wrapped
		for range n {
			s.put(s.last)
		}
	case 'r':
		s.top, s.bottom = n-1, min(number(1, s.height), s.height)-1
		s.x, s.y = 0, 0
	case 's':
		s.savedX, s.savedY = s.x, s.y
	case 'u':
		s.x, s.y = s.savedX, s.savedY
	default:
		s.wrap = wrapped
	}
	s.x, s.y = min(max(s.x, 0), s.width-1), min(max(s.y, 0), s.height-1)
}

// look counts colours.
func (s *Screen) look(parameters string) {
	for _, one := range strings.Split(parameters, ";") {
		if n, err := strconv.Atoi(one); err == nil && (n >= 30 && n <= 38 || n >= 40 && n <= 48 || n >= 90 && n <= 107) {
			s.colors++
		}
	}
}

func (s *Screen) wipe(what int) {
	switch what {
	case 0:
		s.wipeLine(0)
		s.erase(s.y+1, 0, s.height-1, s.width-1)
	case 1:
		s.wipeLine(1)
		s.erase(0, 0, s.y-1, s.width-1)
	default:
		s.erase(0, 0, s.height-1, s.width-1)
	}
}

func (s *Screen) wipeLine(what int) {
	from, to := s.x, s.width-1
	switch what {
	case 1:
		from, to = 0, s.x
	case 2:
		from = 0
	}
	s.erase(s.y, from, s.y, to)
}

// erase empties a part of the screen, its borders included.
func (s *Screen) erase(top, left, bottom, right int) {
	for y := top; y <= bottom; y++ {
		for x := left; x <= right; x++ {
			s.cells[y][x] = ' '
		}
	}
}
