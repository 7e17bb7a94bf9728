//go:build !linux || !cgo

package gpu

import (
	"fmt"

	"github.com/anteroom-gpu/anteroom/admission"
)

// HasNVML says whether this build can read NVIDIA's cards.
const HasNVML = false

// without stands for NVML in a build that has no cgo.
type without struct{}

func newNVML(string) source { return without{} }

func (without) about() string { return "" }

func (without) read(*admission.Reading, bool) error {
	return fmt.Errorf("%w: this build cannot read NVIDIA's cards: want one for Linux made with CGO_ENABLED=1", errAbsent)
}
