package admission

// reasonWords says each reason in words that name nothing of the box but what the
// request itself asked for.
var reasonWords = map[Reason]string{
	ReasonResources:          "the GPU has too little memory available",
	ReasonBehind:             "similar requests are before it",
	ReasonReservedForOther:   "its start would delay a request that is before it",
	ReasonClassSlots:         "all slots of its class are taken",
	ReasonBackendSlots:       "all slots of its model server are taken",
	ReasonBackendUnavailable: "its model server is unavailable",
	ReasonCapacityReduced:    "the GPU is smaller than configured, or cannot be read",
	ReasonUnmanagedMemory:    "other programs hold memory of the GPU",
	ReasonLoneRun:            "a request whose need of memory is not known runs alone on the GPU",
	ReasonTurn:               "another model server has the GPU until its turn ends",
	ReasonRest:               "the GPU comes to rest, so that the request can be tried",
	ReasonTrial:              "it will be tried alone, because what it takes is uncertain",
	ReasonNotByItself:        "nothing that is under way will make room for it",
	ReasonReclaiming:         "memory is being freed for it",
	ReasonWaking:             "its model server is being loaded",
	ReasonPaused:             "its class is paused",
	ReasonDraining:           "its model server takes no new work",
}

// Words says the reason in words for the client that waits: without names of
// processes, tenants or servers. Empty for ReasonNone.
func (r Reason) Words() string { return reasonWords[r] }
