package executor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sluice-tasks/sluice/pkg/limits"
)

// output is what a task wrote: at most limits.MaxLog bytes of UTF-8, the end of it.
type output struct {
	text      string
	truncated bool
	// written is how many bytes it wrote in all.
	written int64
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

// peek returns what was written since the last take or reset, without taking it, if that is more than so many bytes: else nothing.
func (c *capture) peek(than int64) output {
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tail.total <= than {
		return output{}
	}
	return c.tail.output()
}

// take returns what was written since the last take or reset.
func (c *capture) take() output {
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail.end()
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

// tail keeps the end of a text, in the form in which it is stored: valid UTF-8 without NUL. So the end is at the same place however
// often it is stored, and who follows the text knows what of it is new.
type tail struct {
	bytes []byte // up to twice what is kept, so that it is seldom moved
	// part is the beginning of a character that has not come in whole: at most three bytes.
	part      []byte
	truncated bool
	total     int64 // bytes that were ever added
}

func (t *tail) add(text []byte) {
	if len(t.part) > 0 {
		text = slices.Concat(t.part, text)
	}
	whole := len(text) - unfinished(text)
	t.part = append([]byte(nil), text[whole:]...)
	t.append(text[:whole])
}

// end adds what can't become a character any more.
func (t *tail) end() {
	rest := t.part
	t.part = nil
	t.append(rest)
}

func (t *tail) append(text []byte) {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte(replacement))
	}
	if bytes.IndexByte(text, 0) >= 0 {
		text = bytes.ReplaceAll(text, []byte{0}, []byte(replacement))
	}
	t.total += int64(len(text))
	t.bytes = append(t.bytes, text...)
	if len(t.bytes) > 2*limits.MaxLog {
		t.bytes = append(t.bytes[:0], t.bytes[len(t.bytes)-limits.MaxLog:]...)
		t.truncated = true
	}
}

// output is the end of the text, whole characters of it.
func (t *tail) output() output {
	kept, truncated := t.bytes, t.truncated
	if len(kept) > limits.MaxLog {
		kept, truncated = kept[len(kept)-limits.MaxLog:], true
	}
	for truncated && len(kept) > 0 && !utf8.RuneStart(kept[0]) {
		kept = kept[1:]
	}
	return output{text: string(kept), truncated: truncated, written: t.total}
}

// replacement stands for what can't be stored.
const replacement = "\uFFFD"

// unfinished is how many bytes at the end are the beginning of a character.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
