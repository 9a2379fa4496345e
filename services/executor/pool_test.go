package executor

import (
	"errors"
	"testing"
)

// A child that died while it was idle is no child for a task, even before the reader of its line has said so.
func TestAChildThatDiedIsGivenNoTask(t *testing.T) {
	p := &pool{}
	var ends []func() error // the children's
	for range 3 {
		line, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := line.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := line.Close(); err != nil {
				t.Error(err)
			}
		})
		p.idle = append(p.idle, &child{pid: len(p.idle) + 1, conn: line, raw: raw}) // nobody reads the line
		ends = append(ends, theirs.Close)
	}
	if err := errors.Join(ends[0](), ends[2]()); err != nil {
		t.Fatal(err)
	}
	if c := p.warm(); c == nil || c.pid != 2 {
		t.Errorf("the child for a task is %+v, want the one that lives", c)
	}
	if c := p.warm(); c != nil {
		t.Errorf("another child for a task is %d, which has died", c.pid)
	}
	if len(p.idle) != 2 {
		t.Errorf("%d are left to be ended, want 2", len(p.idle))
	}
	if err := ends[1](); err != nil {
		t.Error(err)
	}
}
