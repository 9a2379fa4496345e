package procs

import (
	"os"
	"strconv"
	"strings"
)

// Resident is how many bytes of memory a process and its descendants have in use (their resident sets). What they share is counted for
// each of them. 0: the process has ended. As with Descendants, all are seen only if it is a reaper for them.
func Resident(root int) int64 {
	pages := residentPages(root)
	if pages == 0 {
		return 0
	}
	for _, p := range Descendants(root) {
		pages += residentPages(p.PID)
	}
	return pages * int64(os.Getpagesize())
}

// residentPages reads the resident set of one process; that of one that has ended is empty.
func residentPages(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	// size resident shared text ...
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages
}
