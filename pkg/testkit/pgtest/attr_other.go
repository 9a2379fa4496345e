//go:build unix && !linux

package pgtest

import "syscall"

func childAttr(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential}
}
