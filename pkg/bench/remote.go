package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A crowd lives in a process of its own, so that what the services cost is not mixed with what it costs. It is told what to do
// over its standard input, in JSON, and answers each order with a report on its standard output. When the input ends, so does it.

type crowdOrder struct {
	// Grow is how many executors there should be; 0 asks for nothing but a report.
	Grow int
}

type crowdAnswer struct {
	CrowdReport
	Error string `json:",omitempty"`
}

// ServeCrowd has a crowd obey orders until there are no more.
func ServeCrowd(ctx context.Context, crowd *Crowd, orders io.Reader, answers io.Writer) error {
	read, write := json.NewDecoder(orders), json.NewEncoder(answers)
	for {
		var order crowdOrder
		err := read.Decode(&order)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || ctx.Err() != nil {
			return nil //nolint:nilerr // who gave the orders has gone
		}
		if err != nil {
			return fmt.Errorf("read an order for the crowd: %w", err)
		}
		var answer crowdAnswer
		if order.Grow > 0 {
			if err := crowd.Grow(ctx, order.Grow); err != nil {
				answer.Error = err.Error()
			}
		}
		answer.CrowdReport = crowd.Report()
		if err := write.Encode(answer); err != nil {
			return fmt.Errorf("report on the crowd: %w", err)
		}
	}
}

// RemoteCrowd is a crowd behind ServeCrowd.
type RemoteCrowd struct {
	orders  *json.Encoder
	answers chan crowdAnswer
	broken  error // read when answers is closed
}

// DriveCrowd drives the crowd at the other ends of two pipes. It reads until answers ends, which is for the caller to see to.
func DriveCrowd(orders io.Writer, answers io.Reader) *RemoteCrowd {
	r := &RemoteCrowd{orders: json.NewEncoder(orders), answers: make(chan crowdAnswer, 1)}
	read := json.NewDecoder(answers)
	go func() {
		defer close(r.answers)
		for {
			var answer crowdAnswer
			if r.broken = read.Decode(&answer); r.broken != nil {
				return
			}
			r.answers <- answer
		}
	}()
	return r
}

// Grow has the crowd grow to n and returns its report; with 0 it only asks.
func (r *RemoteCrowd) Grow(ctx context.Context, n int) (CrowdReport, error) {
	if err := r.orders.Encode(crowdOrder{Grow: n}); err != nil {
		return CrowdReport{}, fmt.Errorf("give the crowd an order: %w", err)
	}
	select {
	case answer, there := <-r.answers:
		if !there {
			return CrowdReport{}, fmt.Errorf("the process with the crowd ended: %w", r.broken)
		}
		if answer.Error != "" {
			return answer.CrowdReport, errors.New(answer.Error)
		}
		return answer.CrowdReport, nil
	case <-ctx.Done():
		return CrowdReport{}, context.Cause(ctx)
	}
}

// ownCPU is the processor time that this process has spent.
func ownCPU() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("ask for our own processor time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// ownRSS is the memory of this process in bytes, 0 where it is not known.
func ownRSS() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
