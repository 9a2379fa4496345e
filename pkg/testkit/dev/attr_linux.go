package dev

import "syscall"

// attributes have the kernel end the process with the thread that started it: a test process that is killed cleans up nothing.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
