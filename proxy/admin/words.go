package admin

import (
	"fmt"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Says tells an operator in a sentence why a request waits. It names backends,
// requests and processes, so it is for the admin listener alone.
func Says(w admission.Waiter) string {
	if w.Detail != "" && w.Reason != admission.ReasonUnmanagedMemory && w.Reason != admission.ReasonNotByItself &&
		w.Reason != admission.ReasonResources {
		return w.Detail
	}
	because := ""
	if w.Detail != "" {
		because = ": " + w.Detail
	}
	amounts := fmt.Sprintf("needs %v of %s and %v is available", admission.Bytes(w.Need), w.Resource, admission.Bytes(max(0, w.Free)))
	switch w.Reason {
	case admission.ReasonNone:
		return "is about to start"
	case admission.ReasonResources, admission.ReasonUnmanagedMemory:
		return amounts + because
	case admission.ReasonBehind:
		return "is behind others of its kind"
	case admission.ReasonReservedForOther:
		return fmt.Sprintf("its start would delay request %d, which has a reservation", w.ReservedFor)
	case admission.ReasonClassSlots, admission.ReasonBackendSlots:
		return "all slots of " + w.Resource + " are taken"
	case admission.ReasonBackendUnavailable:
		return "backend " + w.Backend + " does not answer"
	case admission.ReasonCapacityReduced:
		return amounts + ": the GPU is smaller than configured, or cannot be read"
	case admission.ReasonNotByItself:
		return amounts + ", and nothing that is under way will free more" + because
	case admission.ReasonLoneRun:
		return "another run is alone on " + w.Resource + ", because it is not known yet what it takes"
	case admission.ReasonTurn:
		return "another backend has its turn on " + w.Resource
	case admission.ReasonRest:
		return "nothing starts on " + w.Resource + " until it is at rest"
	case admission.ReasonTrial:
		return "waits to be tried alone on " + w.Resource
	case admission.ReasonReclaiming:
		return "memory of " + w.Resource + " is being freed for it"
	case admission.ReasonWaking:
		return "backend " + w.Backend + " is being loaded"
	case admission.ReasonPaused:
		return "class " + w.Class + " is paused"
	case admission.ReasonDraining:
		return "backend " + w.Backend + " takes no new work"
	}
	return string(w.Reason)
}
