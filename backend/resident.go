package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Resident is what a server holds while it is loaded and idle: an amount, or
// `learn` to find out, or a mapping of GPUs to amounts where it spans several.
type Resident struct {
	Amount admission.Bytes            // on the GPU that `gpu` names
	PerGPU map[string]admission.Bytes // in place of Amount; nil: one GPU or none
	Learn  bool
}

// given says that a value is set: for a replica 0 means that it is left out.
func (r Resident) given() bool { return r.Amount != 0 || r.PerGPU != nil || r.Learn }

// gpus are those that it names, in order.
func (r Resident) gpus() []string { return slices.Sorted(maps.Keys(r.PerGPU)) }

// UnmarshalText reads an amount, or `learn`.
func (r *Resident) UnmarshalText(text []byte) error {
	*r = Resident{Learn: isLearn(string(text))}
	if r.Learn {
		return nil
	}
	if err := r.Amount.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or learn", err)
	}
	return nil
}

// isLearn says that a figure is to be found out.
func isLearn(text string) bool { return strings.TrimSpace(text) == "learn" }
