//go:build unix && !linux

package dev

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }
