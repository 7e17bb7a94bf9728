package admin

import (
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/openapi"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// TestTheOpenAPIFileHasEachField of the answers, with its type, and no other.
func TestTheOpenAPIFileHasEachField(t *testing.T) {
	openapi.Compare(t, "../../docs/openapi.yaml", map[string]any{
		"State": State{}, "Board": boardJSON{}, "GPU": gpuJSON{}, "Process": Holder{}, "Class": classJSON{}, "Backend": Backend{},
		"Replica": replicaJSON{}, "Account": accountJSON{}, "Running": runningJSON{}, "Observed": observedJSON{}, "Waiting": Waiter{},
		"BlockedBy": blockedByJSON{}, "Idle": idleJSON{}, "Turn": turnJSON{}, "Learned": Learned{}, "LearnedRoute": LearnedRoute{},
		"LearnedBeside": LearnedBeside{}, "LearnedResident": LearnedResident{}, "History": timeline.History{}, "Request": timeline.Request{},
		"Decision": timeline.Decision{}, "Sample": timeline.Sample{}, "ClassSample": timeline.ClassSample{}, "GPUSample": timeline.GPUSample{},
		"OwnerSample": timeline.OwnerSample{}, "Session": sessionJSON{}})
}
