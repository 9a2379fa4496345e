package heartbeat

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
)

// Register adds the service to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	heartbeatv1.RegisterHeartbeatServiceServer(r, server{service: s})
}

// server is the gRPC face. Limits were checked before it is reached.
type server struct {
	heartbeatv1.UnimplementedHeartbeatServiceServer

	service *Service
}

// Register begins a life.
func (s server) Register(ctx context.Context, req *heartbeatv1.RegisterRequest) (*heartbeatv1.RegisterResponse, error) {
	incarnation, err := s.service.begin(ctx, App{
		Name: req.GetName(), Kind: kindName(req.GetKind()), Versions: req.GetVersions(), TTL: req.GetTtl().AsDuration(),
	})
	if err != nil {
		return nil, err
	}
	return &heartbeatv1.RegisterResponse{Incarnation: incarnation}, nil
}

// Beat answers each beat once it is written.
func (s server) Beat(stream grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.service.beat(stream.Context(), req.GetIncarnation()); err != nil {
			return err
		}
		if err := stream.Send(&heartbeatv1.BeatResponse{}); err != nil {
			return err
		}
	}
}

// Deregister ends a life.
func (s server) Deregister(ctx context.Context, req *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
	if err := s.service.db.End(ctx, req.GetIncarnation()); err != nil {
		return nil, err
	}
	return &heartbeatv1.DeregisterResponse{}, nil
}

// ListApps lists lives.
func (s server) ListApps(ctx context.Context, req *heartbeatv1.ListAppsRequest) (*heartbeatv1.ListAppsResponse, error) {
	apps, err := s.service.db.List(ctx, kindName(req.GetKind()), req.GetIncludeGone())
	if err != nil {
		return nil, err
	}
	answer := &heartbeatv1.ListAppsResponse{}
	for _, a := range apps {
		answer.Apps = append(answer.Apps, &heartbeatv1.App{
			Incarnation: a.Incarnation, Name: a.Name, Kind: kindOf(a.Kind), Versions: a.Versions,
			RegisteredAt: timestamppb.New(a.RegisteredAt), LastBeatAt: timestamppb.New(a.LastBeatAt),
			Online: a.Online, Missing: a.Missing, RunningTaskIds: a.Running,
		})
	}
	return answer, nil
}

func kindName(k heartbeatv1.Kind) string {
	switch k {
	case heartbeatv1.Kind_KIND_API:
		return "api"
	case heartbeatv1.Kind_KIND_WORKER:
		return "worker"
	case heartbeatv1.Kind_KIND_UNSPECIFIED:
		return ""
	default:
		return ""
	}
}

func kindOf(name string) heartbeatv1.Kind {
	for _, k := range []heartbeatv1.Kind{heartbeatv1.Kind_KIND_API, heartbeatv1.Kind_KIND_WORKER} {
		if kindName(k) == name {
			return k
		}
	}
	return heartbeatv1.Kind_KIND_UNSPECIFIED
}
