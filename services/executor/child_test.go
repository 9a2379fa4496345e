package executor

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"

	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
)

// What the line has no room for at once is written by and by, and what is said meanwhile does not overtake it.
func TestAChildIsSentEverythingInItsOrder(t *testing.T) {
	line, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := line.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{conn: line, raw: raw, unsent: make(chan []byte, openCalls+8), gone: make(chan struct{})}
	c.parts.Go(c.write)
	defer func() {
		close(c.gone)
		c.parts.Wait()
		if err := line.Close(); err != nil {
			t.Error(err)
		}
	}()

	large := strings.Repeat("x", 4<<20) // more than any buffer of a socket
	answers := []string{"first", large, "third", large, "last"}
	for i, text := range answers {
		c.reply(&executorv1.CallReply{Id: int64(i), Error: text})
	}
	reader := bufio.NewReader(theirs)
	for i, want := range answers {
		var got executorv1.WorkResponse
		if err := (protodelim.UnmarshalOptions{MaxSize: -1}).UnmarshalFrom(reader, &got); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if reply := got.GetReply(); reply.GetId() != int64(i) || reply.GetError() != want {
			t.Errorf("message %d is number %d with %d bytes", i, reply.GetId(), len(reply.GetError()))
		}
	}
	if err := theirs.Close(); err != nil {
		t.Error(err)
	}
	if c.fault != nil {
		t.Errorf("it is blamed for %v", c.fault)
	}
}

// A child that reads nothing holds up nobody, and is blamed when there are more messages than it may have open.
func TestAChildThatReadsNothingHoldsUpNobody(t *testing.T) {
	line, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := line.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{conn: line, raw: raw, unsent: make(chan []byte, openCalls+8), gone: make(chan struct{})}
	c.parts.Go(c.write)
	text := string(bytes.Repeat([]byte("x"), 1<<20))
	for i := range openCalls + 16 {
		c.reply(&executorv1.CallReply{Id: int64(i), Error: text})
	}
	c.mu.Lock()
	fault := c.fault
	c.mu.Unlock()
	if fault == nil {
		t.Error("nobody blames it")
	}
	close(c.gone)
	// Its end is the end of the line: whoever still writes is let go.
	if err := theirs.Close(); err != nil {
		t.Error(err)
	}
	if err := line.Close(); err != nil {
		t.Error(err)
	}
	c.parts.Wait()
}
