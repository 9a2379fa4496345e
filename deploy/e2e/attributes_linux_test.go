package e2e

import "syscall"

// attributes has the kernel end the process with us: a test process that runs into its time limit cleans up nothing.
func attributes(user *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if user != nil {
		attr.Credential = &syscall.Credential{Uid: user.uid, Gid: user.gid}
	}
	return attr
}
