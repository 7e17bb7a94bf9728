//go:build !linux || !cgo

package gpu

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestABuildWithoutCgoSaysSoAndReadsAMDsCards(t *testing.T) {
	tree(t)
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		var last admission.Reading
		ctx, cancel := context.WithCancel(t.Context())
		s := Sensor{Cards: map[string]Config{"gpu0": {Device: "0", Source: "auto"}}, Log: slog.New(slog.NewTextHandler(&lines, nil))}
		s.Watch(ctx, func(r admission.Reading) { last = r }, cancel)
		if last.Err == nil || !strings.Contains(last.Err.Error(), "want one for Linux made with CGO_ENABLED=1") {
			t.Errorf("got %+v", last)
		}
		if n := strings.Count(lines.String(), "going by the ledger alone"); n != 1 {
			t.Errorf("the log says it %d times, want once:\n%s", n, lines.String())
		}
	})
	tree(t, 24<<30)
	synctest.Test(t, func(t *testing.T) {
		var last admission.Reading
		ctx, cancel := context.WithCancel(t.Context())
		s := Sensor{Cards: map[string]Config{"gpu0": {Device: "0", Source: "auto"}}, Log: slog.New(slog.DiscardHandler)}
		s.Watch(ctx, func(r admission.Reading) { last = r }, cancel)
		if last.Err != nil || last.Source != "amdgpu" || last.Total != 24*admission.GiB {
			t.Errorf("got %+v, want AMD's card", last)
		}
	})
}
