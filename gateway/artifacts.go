package gateway

import (
	"context"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
	pulpv3 "github.com/sluice-tasks/sluice/pkg/pb/pulp/v3"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
)

// plainText is what a diagnostic is unless it says otherwise.
const plainText = "text/plain; charset=utf-8"

// ReadProfileArtifacts returns links to the diagnostics of a task. Pulp's command line opens them without credentials, so each has its key
// in it.
func (s *tasks) ReadProfileArtifacts(ctx context.Context, r *pulpv3.ReadProfileArtifactsRequest) (*pulpv3.ReadProfileArtifactsResponse, error) {
	id, ok := canonicalID(r.GetPulpId())
	if !ok {
		return nil, noTask()
	}
	found, err := s.status.ListTaskArtifacts(ctx, &statusv1.ListTaskArtifactsRequest{TaskId: id})
	if err != nil {
		return nil, notFoundAs(err, noTask())
	}
	base := received(ctx, metaOrigin) + (&url.URL{Path: s.hrefs.at(ctx).of(collectionTasks, id)}).EscapedPath() + "profile_artifacts/"
	response := &pulpv3.ReadProfileArtifactsResponse{Urls: map[string]string{}}
	for _, artifact := range found.GetArtifacts() {
		key := url.Values{"key": {artifact.GetKey()}}
		response.Urls[artifact.GetName()] = base + url.PathEscape(artifact.GetName()) + "/?" + key.Encode()
	}
	return response, nil
}

// downloads adds the route of the diagnostics themselves. grpc-gateway can only answer JSON.
func (g *Gateway) downloads() {
	g.routes.at("/api/v3/tasks/{pulp_id}/profile_artifacts/{name}").operations[http.MethodGet] = operation{
		also: []string{"key"}, hand: g.download,
	}
}

// download answers with a diagnostic. Whoever has its key may read it.
func (g *Gateway) download(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestWait)
	defer cancel()
	at := requestFrom(ctx)
	id, ok := canonicalID(at.vars["pulp_id"])
	if !ok || at.query.Get("key") == "" {
		g.refuse(ctx, w, notFound())
		return
	}
	found, err := g.status.GetTaskArtifact(ctx, &statusv1.GetTaskArtifactRequest{TaskId: id, Name: at.vars["name"], Key: at.query.Get("key")})
	if err != nil {
		answer := g.refusalOf(ctx, r.Method, err)
		if answer.status == http.StatusBadRequest || errs.Is(err, errs.ArtifactNotFound) || errs.Is(err, errs.TaskNotFound) {
			answer = notFound() // a link that was changed by hand is no link
		}
		g.refuse(ctx, w, answer)
		return
	}
	media := found.GetContentType()
	if media == "" {
		media = plainText
	}
	// It was made by a task, and may be HTML: a browser must not run it with the rights of this server's pages.
	header := w.Header()
	header.Set("Content-Type", media)
	header.Set("Content-Length", strconv.Itoa(len(found.GetData())))
	header.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": at.vars["name"]}))
	header.Set("Cache-Control", "private, no-store")
	header.Set("Referrer-Policy", "no-referrer")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerPatience)) // only a recorder in a test has none
	if _, err := w.Write(found.GetData()); err != nil {
		g.log.DebugContext(ctx, "the client was gone before its answer", slog.Any("error", err))
	}
}
