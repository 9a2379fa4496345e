package gateway

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// statusWait bounds the questions behind the status page: it is what people look at when something is slow.
const statusWait = 2 * time.Second

// system answers pulp.v3.SystemService by asking the status and the heartbeat service.
type system struct {
	pulpv3.UnimplementedSystemServiceServer

	status    statusv1.StatusServiceClient
	heartbeat heartbeatv1.HeartbeatServiceClient
	roster    *roster
	hrefs     hrefs
	version   string
	log       *slog.Logger
}

// workerNotFound is the reason of a 404 for a worker. The native services have none: they don't look for a single one.
const workerNotFound errs.Reason = "WORKER_NOT_FOUND"

func noWorker() error { return errs.NotFound(workerNotFound, "No AppStatus matches the given query.") }

// ListWorkers returns a page of executors by name. Those that are gone are only listed when the filters ask for them: Pulp
// deletes them, and a client that looks for a name expects one.
func (s *system) ListWorkers(ctx context.Context, r *pulpv3.ListWorkersRequest) (*pulpv3.ListWorkersResponse, error) {
	bad := &filters{}
	online, missing := bad.truth("online", r.GetOnline()), bad.truth("missing", r.GetMissing())
	size, skip := window(r.GetLimit(), r.GetOffset())
	if err := bad.err(); err != nil {
		return nil, err
	}
	gone := online != nil && !*online || missing != nil && *missing
	response, err := s.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER, IncludeGone: gone})
	if err != nil {
		return nil, err
	}
	matching := slices.DeleteFunc(slices.Clone(response.GetApps()), func(app *heartbeatv1.App) bool {
		return r.GetName() != "" && app.GetName() != r.GetName() ||
			online != nil && app.GetOnline() != *online ||
			missing != nil && app.GetMissing() != *missing
	})
	page := &pulpv3.ListWorkersResponse{Count: int64(len(matching))}
	for _, app := range cut(matching, size, skip) {
		page.Results = append(page.Results, s.hrefs.worker(app))
	}
	return page, nil
}

// ReadWorker returns one executor, also one that is gone.
func (s *system) ReadWorker(ctx context.Context, r *pulpv3.ReadWorkerRequest) (*pulpv3.ReadWorkerResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noWorker()
	}
	response, err := s.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER, IncludeGone: true})
	if err != nil {
		return nil, err
	}
	for _, app := range response.GetApps() {
		if app.GetIncarnation() == id {
			return &pulpv3.ReadWorkerResponse{Worker: s.hrefs.worker(app)}, nil
		}
	}
	return nil, noWorker()
}

// ReadStatus always answers: what can't be asked is shown as not there.
func (s *system) ReadStatus(ctx context.Context, _ *pulpv3.ReadStatusRequest) (*pulpv3.ReadStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	shown := &pulpv3.ReadStatusResponse{
		Versions: []*pulpv3.Version{
			{Component: "core", Version: CoreVersion, Package: "pulpcore", Module: "pulpcore.app", DomainCompatible: true},
			{Component: "sluice", Version: s.version, Package: "sluice", Module: "sluice", DomainCompatible: true},
		},
		DatabaseConnection: &pulpv3.Connection{},
		RedisConnection:    &pulpv3.Connection{},
		ContentSettings:    &pulpv3.ContentSettings{},
	}
	var both sync.WaitGroup
	both.Go(func() {
		response, err := s.status.GetSystemStatus(ctx, &statusv1.GetSystemStatusRequest{})
		if err != nil {
			s.log.WarnContext(ctx, "status page without the status service", slog.Any("error", err))
			return
		}
		shown.DatabaseConnection.Connected = response.GetDatabaseConnected()
	})
	both.Go(func() {
		response, err := s.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{})
		if err != nil {
			s.log.WarnContext(ctx, "status page without the heartbeat service", slog.Any("error", err))
			return
		}
		for _, app := range response.GetApps() {
			online := &pulpv3.OnlineApp{Name: app.GetName(), LastHeartbeat: app.GetLastBeatAt(), Versions: app.GetVersions()}
			switch {
			case !app.GetOnline():
			case app.GetKind() == heartbeatv1.Kind_KIND_WORKER:
				shown.OnlineWorkers = append(shown.OnlineWorkers, online)
			case app.GetKind() == heartbeatv1.Kind_KIND_API:
				shown.OnlineApiApps = append(shown.OnlineApiApps, online)
			}
		}
	})
	both.Wait()
	return shown, nil
}
