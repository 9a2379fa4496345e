package executor

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

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

// ListRunning lists what has not ended, the oldest first.
func (s server) ListRunning(context.Context, *executorv1.ListRunningRequest) (*executorv1.ListRunningResponse, error) {
	s.service.mu.Lock()
	defer s.service.mu.Unlock()
	var runs []*executorv1.Run
	for c, r := range s.service.runs {
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
		})
	}
	slices.SortFunc(runs, func(a, b *executorv1.Run) int {
		return cmp.Or(a.GetSince().AsTime().Compare(b.GetSince().AsTime()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return &executorv1.ListRunningResponse{Runs: runs}, nil
}

// Drain stops the taking of tasks, until the executor is restarted.
func (s server) Drain(context.Context, *executorv1.DrainRequest) (*executorv1.DrainResponse, error) {
	s.service.mu.Lock()
	defer s.service.mu.Unlock()
	s.service.draining = true
	s.service.drainLocked()
	return &executorv1.DrainResponse{Running: int32(s.service.runningLocked())}, nil
}
