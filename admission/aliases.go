package admission

import (
	"github.com/anteroom-gpu/anteroom/admission/history"
	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// What those who ask need of the packages below, so that they import this one
// alone.

// Bytes is an amount of memory.
type Bytes = memory.Bytes

const (
	KiB = memory.KiB
	MiB = memory.MiB
	GiB = memory.GiB
	TiB = memory.TiB
)

// ParseBytes reads an amount such as "34GiB"; see memory.ParseBytes.
func ParseBytes(s string) (Bytes, error) { return memory.ParseBytes(s) }

type (
	// History learns how long the work of one route takes and how much memory.
	History = history.History
	// Learned is what a History knows of one demand.
	Learned = history.Learned
	// Peak is what a History knows of the memory of one demand.
	Peak = history.Peak
	// Estimate is the execution time to expect.
	Estimate = history.Estimate
)
