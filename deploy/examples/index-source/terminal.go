package main

import (
	"fmt"
	"os"
)

// line is one line of a terminal that is written again and again. Where nobody watches, in a pipe or a file, it is not
// written at all.
type line struct{ shown bool }

func newLine() *line {
	info, err := os.Stdout.Stat()
	return &line{shown: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// say replaces what stands there.
func (l *line) say(format string, args ...any) {
	if l.shown {
		fmt.Printf("\r"+format+"\x1b[K", args...)
	}
}

// end clears it.
func (l *line) end() {
	if l.shown {
		fmt.Print("\r\x1b[K")
	}
}
