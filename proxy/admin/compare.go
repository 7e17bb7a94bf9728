package admin

import (
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
)

// compareAge is how long a comparison is reused. A comparison is a simulation of thousands
// of requests.
const compareAge = 10 * time.Second

// comparison is the last one that was made.
type comparison struct {
	mu    sync.Mutex // held while one is made: others wait for it
	asked string     // guarded by mu; ?for=
	until time.Time  // guarded by mu; zero: there is none
	value any        // guarded by mu
}

// compare answers how long the recorded requests waited, and how long they would have
// waited in one queue.
func (a *api) compare(c echo.Context) error {
	now := time.Now()
	from, err := since(c, now)
	if err != nil {
		return err
	}
	if a.Compare == nil {
		return echo.NewHTTPError(http.StatusNotFound, "there is nothing to compare with here")
	}
	x := &a.compared
	x.mu.Lock()
	defer x.mu.Unlock()
	if asked := c.QueryParam("for"); asked != x.asked || !now.Before(x.until) {
		value, err := a.Compare(a.Telemetry.History.Since(from, now))
		if err != nil {
			return echo.NewHTTPError(http.StatusUnprocessableEntity, err.Error())
		}
		x.asked, x.value, x.until = asked, value, time.Now().Add(compareAge)
	}
	return c.JSON(http.StatusOK, x.value)
}
