package backend

// TripBreaker opens the breaker, as a failed health check does.
func (b *Server) TripBreaker() { b.breaker.trip("the test says so") }
