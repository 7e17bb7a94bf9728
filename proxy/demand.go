package proxy

import (
	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
)

// Book sets what is booked for a request: its route's own figure, or what the route's
// history says instead (admission.History.Demand has the rule). What was learned is rounded
// up to a bucket, so that shapes stay few. The controller reduces it to what the card can
// give at most.
func Book(ask *admission.Request, learn bool) {
	ask.Learn = learn
	booked, unknown := ask.History.Demand(ask.VRAM, learn)
	if booked == ask.VRAM && !unknown {
		return
	}
	booked = routing.RoundUp(booked)
	ask.VRAM, ask.Raised, ask.Unknown = booked, booked-ask.VRAM, unknown
}
