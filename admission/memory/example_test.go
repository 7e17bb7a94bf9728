package memory_test

import (
	"fmt"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// A backend with weights of 12 GiB is loaded on a card of 48 GiB. A run of 20 GiB fits
// beside them, and a second does not while the first one runs.
func Example() {
	var l memory.Ledger
	gpu := l.AddGPU(0, memory.GPU{Name: "gpu0", Memory: 48 * memory.GiB, Reserve: memory.GiB, Reads: true})
	flux := l.AddAccount(memory.Place{Backend: "flux", GPU: gpu, Weights: 12 * memory.GiB, Returns: true})

	now := time.Second
	l.SetLoaded(now, flux, true)
	l.Observe(now, now, memory.Reading{GPU: "gpu0", Total: 48 * memory.GiB, Used: 12 * memory.GiB, Source: "nvml"})

	l.Start(now, &memory.Run{Accounts: []int{flux}, Demand: 20 * memory.GiB})
	_, free, ok := l.Fits(&l.State, flux, 20*memory.GiB, now)
	fmt.Println("a second run fits:", ok, "free:", free)
	// Output:
	// a second run fits: false free: 15GiB
}
