package executor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// output is what a task wrote: at most limits.MaxLog bytes of UTF-8, the end of it.
type output struct {
	text      string
	truncated bool
}

// capture reads what a child and its descendants write to standard output and standard error, all the time, and keeps the
// end. A task that writes never waits for more than this process.
type capture struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{}

	mu     sync.Mutex
	buffer []byte // scratch
	tail   tail
}

// newCapture returns a capture and the end of the pipe that the child writes to, for the caller to close once it is handed
// over.
func newCapture() (*capture, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe for the output: %w", err)
	}
	raw, err := r.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read the output: %w", err), r.Close(), w.Close())
	}
	c := &capture{file: r, raw: raw, done: make(chan struct{}), buffer: make([]byte, 32<<10)}
	go c.follow()
	return c, w, nil
}

// follow reads until the pipe is closed, on the other side or on this.
func (c *capture) follow() {
	defer close(c.done)
	for {
		ended := false
		err := c.raw.Read(func(fd uintptr) bool {
			n, err := c.pull(int(fd))
			ended = n == 0 && err == nil
			return !errors.Is(err, unix.EAGAIN)
		})
		if ended || err != nil {
			return
		}
	}
}

// pull reads once. Reading and keeping are one step under the lock, so that drain knows: what is not in the pipe is kept.
func (c *capture) pull(fd int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := unix.Read(fd, c.buffer)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, c.buffer)
	}
	if n <= 0 {
		return n, err
	}
	c.tail.add(c.buffer[:n])
	return n, nil
}

// drain reads what is in the pipe now: all that a task wrote before it reported its end. No more than a pipe can hold, for
// something that the task left behind may write for ever.
func (c *capture) drain() {
	const pipeSize = 64 << 10
	_ = c.raw.Control(func(fd uintptr) {
		for total := 0; total < pipeSize; {
			n, err := c.pull(int(fd))
			if n <= 0 || err != nil {
				return
			}
			total += n
		}
	})
}

// reset forgets what was written so far.
func (c *capture) reset() {
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = tail{bytes: c.tail.bytes[:0]}
}

// say adds a line of ours to what is written.
func (c *capture) say(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail.add([]byte(text))
}

// peek returns what was written since the last take or reset, and how much that was in all, without taking it.
func (c *capture) peek() (output, int64) {
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tail.output(), c.tail.total
}

// take returns what was written since the last take or reset.
func (c *capture) take() output {
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.tail.output()
	c.tail = tail{}
	return taken
}

// close ends the reading after what is in the pipe. Whoever still has the other end gets SIGPIPE from now on.
func (c *capture) close() {
	c.drain()
	_ = c.file.Close()
	<-c.done
}

// lastPart makes text storable (valid UTF-8, no NUL) and keeps at most the last limit bytes, without dividing a character.
func lastPart(text string, limit int) (part string, cut bool) {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= limit {
		return text, false
	}
	text = text[len(text)-limit:]
	for len(text) > 0 && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return text, true
}
