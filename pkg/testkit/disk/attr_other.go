//go:build !linux

package disk

import "syscall"

func withUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
