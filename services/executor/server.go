package executor

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	executorv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/executor/v1"
)

// server is the gRPC face of the executor.
type server struct {
	executorv1.UnimplementedExecutorServiceServer
	service *Service
}

// Register adds ExecutorService to a server.
func (s *Service) Register(registrar grpc.ServiceRegistrar) {
	executorv1.RegisterExecutorServiceServer(registrar, server{service: s})
}

// Work serves a worker of any language.
func (s server) Work(stream workStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return errs.Invalid(errs.Violation{Field: "hello", Rule: "must be the first message"})
	}
	g, err := s.service.admit(stream.Context(), hello)
	if err != nil {
		return err
	}
	return s.service.host(g, stream)
}

// ListRunning lists what has not ended, the oldest first.
func (s server) ListRunning(context.Context, *executorv1.ListRunningRequest) (*executorv1.ListRunningResponse, error) {
	s.service.mu.Lock()
	stations := s.service.stationsLocked()
	s.service.mu.Unlock()
	var runs []*executorv1.Run
	for _, st := range stations {
		runs = append(runs, st.listRunning(strings.TrimPrefix(st.name, s.service.own.name+"/"))...)
	}
	slices.SortFunc(runs, func(a, b *executorv1.Run) int {
		return cmp.Or(a.GetSince().AsTime().Compare(b.GetSince().AsTime()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return &executorv1.ListRunningResponse{Runs: runs}, nil
}

// listRunning lists what runs at one station, worker being its name here.
func (s *station) listRunning(worker string) (runs []*executorv1.Run) {
	if worker == s.name {
		worker = "" // the executor itself
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, r := range s.runs {
		if r.outcome != nil {
			continue
		}
		runs = append(runs, &executorv1.Run{
			TaskId:    c.task,
			Claim:     c.number,
			Name:      r.assignment.GetName(),
			Since:     timestamppb.New(r.since),
			Pid:       int32(r.pid),
			Canceling: r.asked.Err() != nil,
			Worker:    worker,
		})
	}
	return runs
}

// Drain stops the taking of tasks, until the executor is started anew.
func (s server) Drain(context.Context, *executorv1.DrainRequest) (*executorv1.DrainResponse, error) {
	return &executorv1.DrainResponse{Running: int32(s.service.drain())}, nil
}
