//go:build unix && !linux

package e2e

import "syscall"

func attributes(user *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if user != nil {
		attr.Credential = &syscall.Credential{Uid: user.uid, Gid: user.gid}
	}
	return attr
}
