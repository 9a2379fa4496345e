package bouncer

import "syscall"

// childAttr has the kernel end the child with the thread that started it: a test process that is killed cleans up
// nothing, and poolers would pile up.
func childAttr(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGKILL}
}
