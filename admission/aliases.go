package admission

import (
	"time"

	"github.com/anteroom-gpu/anteroom/admission/history"
	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// What callers need of the packages below, so that they import this one
// alone.

// Bytes is an amount of memory.
type Bytes = memory.Bytes

const (
	KiB = memory.KiB
	MiB = memory.MiB
	GiB = memory.GiB
	TiB = memory.TiB
)

// What an Order asks for.
const (
	Unload = residency.Unload
	Wake   = residency.Wake
	Return = residency.Return
)

// What is expected of orders whose time was not seen yet.
const (
	UnloadTime = residency.UnloadTime
	LoadRate   = residency.LoadRate
)

// LoadTime is how long so many weights are taken to load; see residency.LoadTime.
func LoadTime(n Bytes) time.Duration { return residency.LoadTime(n) }

// ErrNoBackend says that a backend is not configured.
var ErrNoBackend = residency.ErrNoBackend

// ParseBytes reads an amount such as "34GiB"; see memory.ParseBytes.
func ParseBytes(s string) (Bytes, error) { return memory.ParseBytes(s) }

type (
	// GPU is one card, or one MIG instance, with a budget of its own.
	GPU = memory.GPU
	// Reading is what was seen of one GPU at one moment.
	Reading = memory.Reading
	// Process is a process that holds memory on a GPU.
	Process = memory.Process

	// Order is something slow that the owner of the controller is to do.
	Order = residency.Order
	// Ended is how an order ended.
	Ended = residency.Ended

	// History learns how long the work of one route takes and how much memory.
	History = history.History
	// Learned is what a History knows of one demand.
	Learned = history.Learned
	// Figure is what a History books for one demand, and Evidence what that rests on.
	Figure   = history.Figure
	Evidence = history.Evidence
	// Peak is what a History knows of the memory of one demand.
	Peak = history.Peak
	// Beside is the execution time to expect beside the work of each class.
	Beside = history.Beside
	// Estimate is the execution time to expect.
	Estimate = history.Estimate
)
