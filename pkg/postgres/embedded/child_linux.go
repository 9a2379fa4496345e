package embedded

import "syscall"

// childAttr makes a child run as a and get deathSignal when we die, even by SIGKILL. The kernel sends it when the
// *thread* that started the child ends, so launch locks its goroutine to one. A process group of its own keeps the ^C
// of a terminal from stopping the server before the services that use it.
func childAttr(a account, deathSignal syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: deathSignal}
	if a.switched {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}
