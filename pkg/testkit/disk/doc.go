// Package disk gives a test a disk that is small enough to be filled up.
//
// # Owns
//
// A file system in memory, mounted where nobody else sees it: the test is run once more, in a process with mounts of its own, and
// that process has the disk. So nothing stays mounted, however the test ends, and an ordinary user needs no privileges where the
// kernel gives user namespaces to everybody.
//
// # Failure
//
// Where neither root's mount nor a user namespace is to be had, the test is skipped and says what was tried. A disk is full for
// a moment only while others free what they have on it: [Disk.Fill] fills what is free when it is called.
package disk
