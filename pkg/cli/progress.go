package cli

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// turn is how often the progress line is drawn: often enough to look alive.
	turn = 100 * time.Millisecond
	// liveLook is how often the server is asked while somebody looks at the line; otherwise long polls do.
	liveLook = 500 * time.Millisecond
	// clearLine returns to the first column and wipes the line. No other control sequence is used, and no colour at all, so
	// NO_COLOR asks for nothing that is not the case already.
	clearLine = "\r\x1b[K"
)

// progress is one line on standard error that says how a wait goes. Where standard error is not a terminal it does nothing.
type progress struct {
	terminal *os.File
	began    time.Time
	mu       sync.Mutex
	text     string
	quit     chan struct{}
	done     chan struct{}
	once     sync.Once
}

// progress starts the line. stop must be called.
func (e *Environment) progress() *progress {
	p := &progress{began: time.Now(), quit: make(chan struct{}), done: make(chan struct{})}
	file, ok := e.Stderr.(*os.File)
	kind, _ := e.LookupEnv("TERM")
	if !ok || !term.IsTerminal(int(file.Fd())) || kind == "dumb" {
		close(p.done)
		return p
	}
	p.terminal = file
	go p.draw()
	return p
}

// shown reports whether anybody sees the line.
func (p *progress) shown() bool { return p.terminal != nil }

// interval is how often it is worth asking the server; 0 means as seldom as possible.
func (p *progress) interval() time.Duration {
	if p.shown() {
		return liveLook
	}
	return 0
}

// say changes the text.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

// stop wipes the line and returns when nothing more will be drawn. Calling it again does nothing.
func (p *progress) stop() {
	p.once.Do(func() { close(p.quit) })
	<-p.done
}

func (p *progress) draw() {
	defer close(p.done)
	ticker := time.NewTicker(turn)
	defer ticker.Stop()
	for n := 0; ; n++ {
		p.mu.Lock()
		text := p.text
		p.mu.Unlock()
		line := fmt.Sprintf("%c %s  %s", `|/-\`[n%4], printable(text), span(time.Since(p.began).Truncate(turn)))
		fmt.Fprint(p.terminal, clearLine+shorten(line, p.width()))
		select {
		case <-p.quit:
			fmt.Fprint(p.terminal, clearLine)
			return
		case <-ticker.C:
		}
	}
}

// width leaves the last column free: a line that fills it wraps, and then can't be wiped.
func (p *progress) width() int {
	columns, _, err := term.GetSize(int(p.terminal.Fd()))
	if err != nil || columns < 2 {
		return 79
	}
	return columns - 1
}
