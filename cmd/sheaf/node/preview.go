package node

import (
	"context"
	"crypto/rand"
	"time"

	"sheaf/events"
	"sheaf/events/secrets"
	"sheaf/services/assembler"
	"sheaf/services/crawler/preview"
	"sheaf/services/crawler/source"
	"sheaf/services/ingress/request"
)

// maxPreviewPage bounds one response of a server's preview. Each of the four previews at once holds two, in
// buffers of up to twice their size: 128 MiB, beside the responses of the crawler.
const maxPreviewPage = 8 << 20

// previewer previews sources for the ingress.
type previewer struct{ *preview.Previewer }

func newPreviewer(policy source.Policy, client source.Client) previewer {
	policy.MaxRetryAfter = 5 * time.Second
	var presets []preview.Preset
	for _, p := range request.Presets() {
		presets = append(presets, preview.Preset{Name: p.Name, Given: p.Given, Source: p.Source})
	}
	return previewer{preview.New(preview.Config{
		Policy: policy, Presets: presets, Rests: source.NewRests(),
	}, client)}
}

// serverPreviewer is the previewer of a server.
func serverPreviewer(limits SourceLimits, client source.Client) previewer {
	policy := limits.policy()
	policy.MaxBodyBytes = maxPreviewPage
	if limits.MaxPageBytes > 0 {
		policy.MaxBodyBytes = min(policy.MaxBodyBytes, int64(limits.MaxPageBytes))
	}
	return newPreviewer(policy, client)
}

// Preview implements ingress.Previewer.
func (p previewer) Preview(ctx context.Context, submission []byte, check func([]byte) (*events.Request, secrets.Values, error)) (any, error) {
	answer, err := p.Previewer.Preview(ctx, submission, check)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Preview previews the source of a submission in this process, without a server. The error of a wrong field
// is a [*request.Error].
func Preview(ctx context.Context, cfg Config, submission []byte) (*preview.Answer, error) {
	if err := cfg.Complete(); err != nil {
		return nil, err
	}
	allowed, err := cfg.allowed()
	if err != nil {
		return nil, err
	}
	client := cfg.newEgress(allowed)
	defer client.CloseIdleConnections()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	keys, err := secrets.NewKeyring(secret)
	if err != nil {
		return nil, err
	}
	return newPreviewer(cfg.policy(), client).Previewer.Preview(ctx, submission, func(body []byte) (*events.Request, secrets.Values, error) {
		return request.ParseOpened(keys, events.DefaultTenant, assembler.Formats(), body)
	})
}
