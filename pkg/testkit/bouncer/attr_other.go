//go:build unix && !linux

package bouncer

import "syscall"

func childAttr(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential}
}
