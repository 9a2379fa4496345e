//go:build unix && !linux

package embedded

import "syscall"

// childAttr makes a child run as a, in a process group of its own (so that ^C reaches the services first). These systems
// cannot tie its life to ours; after a kill the next Start stops it.
func childAttr(a account, _ syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.switched {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}
