package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"regexp"
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
	hrefs     hrefs
	version   string
	log       *slog.Logger
}

// workerNotFound is the reason of a 404 for a worker. The native services have none: they don't look for a single one.
const workerNotFound errs.Reason = "WORKER_NOT_FOUND"

func noWorker() error { return errs.NotFound(workerNotFound, "No AppStatus matches the given query.") }

// ListWorkers returns a page of executors, by name unless another order is asked for. Those that are gone are only listed when the
// filters ask for them: Pulp deletes them, and a client that looks for a name expects one.
func (s *system) ListWorkers(ctx context.Context, r *pulpv3.ListWorkersRequest) (*pulpv3.ListWorkersResponse, error) {
	h, bad := s.hrefs.at(ctx), &filters{}
	conditions := workerFilters(h).of(r, bad)
	keys := bad.sortKeys(r.GetOrdering(), func(name string) bool { return workerOrders[name] != nil })
	size, skip := window(r.GetLimit(), r.GetOffset())
	if err := bad.err(); err != nil {
		return nil, err
	}
	response, err := s.heartbeat.ListApps(ctx, &heartbeatv1.ListAppsRequest{Kind: heartbeatv1.Kind_KIND_WORKER, IncludeGone: wantsGone(r)})
	if err != nil {
		return nil, err
	}
	matching := slices.DeleteFunc(slices.Clone(response.GetApps()), func(app *heartbeatv1.App) bool { return !matches(app, conditions) })
	sorted(matching, keys, workerOrders, defaultWorkerOrder(keys))
	page := &pulpv3.ListWorkersResponse{Count: int64(len(matching))}
	for _, app := range cut(matching, size, skip) {
		page.Results = append(page.Results, h.worker(app))
	}
	return page, nil
}

// wantsGone reports whether a filter can only match executors that are gone, or names them one by one.
func wantsGone(r *pulpv3.ListWorkersRequest) bool {
	online, err := truth(r.GetOnline())
	if err == nil && r.GetOnline() != "" && !online {
		return true
	}
	if missing, err := truth(r.GetMissing()); err == nil && missing {
		return true
	}
	return r.GetPrn_In() != "" || r.GetPulpHref_In() != "" || r.GetPulpId_In() != "" || goneWords.MatchString(r.GetQ())
}

// goneWords finds the filters of wantsGone in an expression, whatever it does with them.
var goneWords = regexp.MustCompile(`(^|[^A-Za-z0-9_])(online|missing|prn__in|pulp_href__in|pulp_id__in)=`)

// workerFilters are all filters of workers.
func workerFilters(h hrefs) filterset[func(*heartbeatv1.App) bool] {
	s := predicates[*heartbeatv1.App]()
	textLookups(s, "name", (*heartbeatv1.App).GetName,
		"", "iexact", "in", "contains", "icontains", "startswith", "istartswith", "regex", "iregex")
	timeLookups(s, "last_heartbeat", (*heartbeatv1.App).GetLastBeatAt)
	truthLookup(s, "online", (*heartbeatv1.App).GetOnline)
	truthLookup(s, "missing", (*heartbeatv1.App).GetMissing)
	idLookups(s, h, collectionWorkers, modelWorker, "a worker", (*heartbeatv1.App).GetIncarnation)
	return s
}

// workerOrders are what workers can be ordered by.
var workerOrders = map[string]func(a, b *heartbeatv1.App) int{
	"pk":                byIncarnation,
	"pulp_id":           byIncarnation,
	"pulp_created":      byRegistration,
	"pulp_last_updated": byBeat,
	"last_heartbeat":    byBeat,
	"name":              byName,
	"versions": func(a, b *heartbeatv1.App) int {
		return cmp.Compare(fmt.Sprint(a.GetVersions()), fmt.Sprint(b.GetVersions())) // maps are printed by sorted keys
	},
}

func byIncarnation(a, b *heartbeatv1.App) int {
	return cmp.Compare(a.GetIncarnation(), b.GetIncarnation())
}
func byName(a, b *heartbeatv1.App) int { return cmp.Compare(a.GetName(), b.GetName()) }

func byRegistration(a, b *heartbeatv1.App) int {
	return a.GetRegisteredAt().AsTime().Compare(b.GetRegisteredAt().AsTime())
}

func byBeat(a, b *heartbeatv1.App) int {
	return a.GetLastBeatAt().AsTime().Compare(b.GetLastBeatAt().AsTime())
}

// defaultWorkerOrder is by name; what an order of the client's leaves open is the newest first, as everywhere in Pulp.
func defaultWorkerOrder(keys []sortKey) func(a, b *heartbeatv1.App) int {
	if len(keys) == 0 {
		return byName
	}
	return func(a, b *heartbeatv1.App) int { return byRegistration(b, a) }
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
			return &pulpv3.ReadWorkerResponse{Worker: s.hrefs.at(ctx).worker(app)}, nil
		}
	}
	return nil, noWorker()
}

// ReadStatus always answers: what can't be asked is shown as not there.
func (s *system) ReadStatus(ctx context.Context, _ *pulpv3.ReadStatusRequest) (*pulpv3.ReadStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	shown := &pulpv3.ReadStatusResponse{
		Versions:           components(s.version),
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
