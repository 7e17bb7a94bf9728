package admission_test

import (
	"context"
	"fmt"

	"github.com/anteroom-gpu/anteroom/admission"
)

// A card has 48 GiB of which 1 GiB is never given out. One image runs; a second is
// refused at once, for the queue of its class is full.
func Example() {
	c, err := admission.NewController(admission.Config{
		GPUs:    []admission.GPU{{Name: "gpu0", Memory: 48 * admission.GiB, Reserve: admission.GiB}},
		Classes: []admission.Class{{Name: "images", Slots: 1, QueueLimit: 0}},
		Backends: []admission.Backend{{Name: "flux", ReturnsMemory: true,
			Replicas: []admission.Replica{{Name: "flux", Places: []admission.Place{{GPU: "gpu0", Resident: 12 * admission.GiB}}}}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	image := admission.Request{Class: "images", Backend: "flux", VRAM: 20 * admission.GiB}
	grant, err := c.Admit(context.Background(), image)
	if err != nil {
		fmt.Println(err)
		return
	}
	gpu := c.Snapshot().GPUs[0]
	fmt.Println("booked", gpu.Booked, "available", gpu.Available)

	_, err = c.Admit(context.Background(), image)
	fmt.Println(err)

	grant.Release(admission.Result{Outcome: admission.Done})
	fmt.Println("booked", c.Snapshot().GPUs[0].Booked)
	// Output:
	// booked 32GiB available 15GiB
	// admission: queue_full: 0 requests of class images are waiting, which is its limit
	// booked 12GiB
}
