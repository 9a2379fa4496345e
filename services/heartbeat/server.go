package heartbeat

import (
	"context"
	"errors"
	"io"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
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
	}, req.GetReplaces())
	if err != nil {
		return nil, err
	}
	return &heartbeatv1.RegisterResponse{Incarnation: incarnation}, nil
}

// Beat answers each beat once it is written. Of who stays away with an open stream, nothing is kept but the stream: his beats
// are what counts.
func (s server) Beat(stream grpc.BidiStreamingServer[heartbeatv1.BeatRequest, heartbeatv1.BeatResponse]) error {
	beater := s.service.newBeater()
	confirmed := &heartbeatv1.BeatResponse{}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		incarnation, err := uuid.Parse(req.GetIncarnation())
		if err != nil {
			return errs.Invalid(errs.Violation{Field: "incarnation", Rule: "must be a UUID"})
		}
		if err := beater.beat(stream.Context(), incarnation, req.GetHearing() != nil, req.GetHearing().GetSilentFor().AsDuration()); err != nil {
			return err
		}
		if err := stream.Send(confirmed); err != nil {
			return err
		}
	}
}

// Deregister ends a life.
func (s server) Deregister(ctx context.Context, req *heartbeatv1.DeregisterRequest) (*heartbeatv1.DeregisterResponse, error) {
	if err := s.service.end(ctx, req.GetIncarnation(), req.GetDead()); err != nil {
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
		app := &heartbeatv1.App{
			Incarnation: a.Incarnation, Name: a.Name, Kind: kindOf(a.Kind), Versions: a.Versions,
			RegisteredAt: timestamppb.New(a.RegisteredAt), LastBeatAt: timestamppb.New(a.LastBeatAt),
			Online: a.Online, Missing: a.Missing, RunningTaskIds: a.Running, Ttl: durationpb.New(a.TTL),
		}
		if a.DeafSince != nil {
			app.DeafSince = timestamppb.New(*a.DeafSince)
		}
		answer.Apps = append(answer.Apps, app)
	}
	return answer, nil
}

func kindName(k heartbeatv1.Kind) string {
	switch k {
	case heartbeatv1.Kind_KIND_API:
		return kindAPI
	case heartbeatv1.Kind_KIND_WORKER:
		return kindWorker
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
