package routing

import (
	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
)

// VRAM is what one request of a class takes: an amount, or `learn` to find out.
type VRAM struct {
	Amount admission.Bytes
	Learn  bool
}

// UnmarshalText reads an amount, or `learn`.
func (v *VRAM) UnmarshalText(text []byte) error {
	var r backend.Resident // which is written alike
	err := r.UnmarshalText(text)
	*v = VRAM{r.Amount, r.Learn}
	return err
}
