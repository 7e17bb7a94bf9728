package routing

// TripBreaker opens the breaker, as a failed health check does.
func (b *Backend) TripBreaker() { b.breaker.trip() }
