package admission

import (
	"flag"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/race"
)

// Worlds hold the Scheduler against cards whose truth it does not see:
//
//	worlds_test.go          the tests, the bars, and playing many worlds
//	worlds_truth_test.go    what a world is, how it is drawn and played
//	worlds_judge_test.go    safety, liveness, and the table
//	worlds_adapter_test.go  all that is called of the Scheduler
//	worlds_seer_test.go     schedulers that know the truth, to judge the judge
//
// 200,000 worlds, with the table and the seeds of those that fail, then one of
// them as a story:
//
//	make worlds
//	go test -v -run 'TestWorlds$' ./admission -worldstory 1000868
//
// The columns of the table, after worlds and runs: allocations that did not
// fit, by what is to blame; again, those of a route that has failed before in as
// much room; requests refused; worlds in which a head was late, and the share
// of the others, and those in which one fitted only narrowly; the longest time past a bound; the longest time that a head
// which truly fitted was excused; worlds in which a head that fits at rest, the
// oldest on its cards, was passed by others; worlds that broke a contract.
var (
	worlds     = flag.Int("worlds", 0, "play so many worlds in TestWorlds, and print the table and the seeds of those that fail")
	worldSeed  = flag.Uint64("worldseed", 1, "the seed of the first world of TestWorlds")
	worldStory = flag.Uint64("worldstory", 0, "tell the whole story of the world with this seed in TestWorlds, and play no other")
)

// worldBar is what is asked of the worlds of one kind of evidence.
type worldBar struct {
	admissions float64 // overflows by an admission in 100,000 runs, with right figures
	loneRuns   bool    // those by a lone run count like them
	onTime     float64 // share of worlds in which no head is late, in percent, with right figures
}

// The bars for process figures, and all of onTime, are what is promised. For
// other evidence "rare" is taken for what the Scheduler reaches, so that a test
// sees it if it gets worse.
var worldBars = [evidences]worldBar{
	evidenceOfAll:   {1, true, 99.9},
	evidenceLate:    {10, false, 99.8},
	evidenceOfSome:  {40, false, 99.8},
	evidenceTotals:  {60, false, 99.8},
	evidenceWatched: {15, false, 99.8},
}

const (
	// longestLate is how far past its bound any head may start.
	longestLate = 30 * time.Second
	// onTimeWrong is the share of worlds with wrong figures in which no head is
	// late, in percent. What was learned wrong from one of them takes a few runs to
	// be put right.
	onTimeWrong = 99.8
	// againOf is the share of out-of-memory answers with wrong figures that may
	// come in no more room than one before them. Often that is another request of
	// the route, which needs more than the last one did.
	againOf = .4
)

// misses says what a table does not reach. Few worlds may break one bar each. Without
// shares, it asks only for what no world may do: of few worlds, shares say little.
func (t *worldTable) misses(shares bool) (all []string) {
	for e := range t {
		for f := range t[e] {
			r, name := &t[e][f], fmt.Sprintf("%v, figures %s", worldEvidence(e), [...]string{"right", "wrong"}[f])
			miss := func(format string, args ...any) { all = append(all, name+": "+fmt.Sprintf(format, args...)) }
			if r.broken > 0 {
				miss("%d worlds broke a contract", r.broken)
			}
			if r.worst > longestLate {
				miss("a head started %v past its bound, want %v at most", r.worst, longestLate)
			}
			if !shares {
				continue
			}
			onTime := worldBars[e].onTime
			if f == 1 {
				onTime = onTimeWrong
			}
			if most := max(2, math.Ceil((100-onTime)/100*float64(r.worlds))); float64(r.late) > most {
				miss("heads were late in %d of %d worlds, want %v at most", r.late, r.worlds, most)
			}
			most := max(1, math.Round(worldBars[e].admissions*float64(r.runs)/100_000))
			got := r.overflows[byAdmission]
			if worldBars[e].loneRuns {
				got += r.overflows[byLoneRun]
			}
			if f == 0 && float64(got) > most {
				miss("%d overflows by an admission (or a lone run, where it counts) in %d runs, want %v at most", got, r.runs, most)
			}
			failed := 0
			for _, n := range r.overflows {
				failed += n
			}
			if most := math.Ceil(againOf * float64(failed)); f == 1 && float64(r.again) > most {
				miss("%d of %d out-of-memory answers in no more room than one before, want %v at most", r.again, failed, most)
			}
		}
	}
	return all
}

// playWorlds plays worlds with seeds from a first one on, on all processors.
func playWorlds(n int, first uint64, maker func(*hiddenWorld) worldScheduler) *worldTable {
	var sum worldTable
	var mu sync.Mutex // guards sum
	var all sync.WaitGroup
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			var mine worldTable
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				w := newHiddenWorld(first+uint64(i), false, maker)
				w.play()
				e, f, r := w.verdict()
				mine[e][f].add(r)
			}
			mu.Lock()
			defer mu.Unlock()
			for e := range mine {
				for f := range mine[e] {
					sum[e][f].add(mine[e][f])
				}
			}
		})
	}
	all.Wait()
	return &sum
}

// tellWorld plays a world once more and gives its story: how it is, and the
// last events up to what it broke first.
func tellWorld(seed uint64, maker func(*hiddenWorld) worldScheduler, last int) string {
	w := newHiddenWorld(seed, true, maker)
	w.play()
	return w.told(last)
}

// TestWorlds holds the Scheduler against worlds whose truth it does not see:
// for safety, and for liveness.
func TestWorlds(t *testing.T) {
	if *worldStory != 0 {
		fmt.Println(tellWorld(*worldStory, newAdapter, math.MaxInt))
		return
	}
	n := race.Some(2000)
	if *worlds > 0 {
		n = *worlds
	}
	began := time.Now()
	sum := playWorlds(n, *worldSeed, newAdapter)
	t.Logf("%d worlds from seed %d in %v\n%v", n, *worldSeed, time.Since(began).Round(time.Millisecond), sum)
	if *worlds > 0 {
		t.Logf("worlds that failed, the worst %d of each kind:\n%v", maxFailures, sum.failures())
	}
	misses := sum.misses(n >= 2000)
	for _, m := range misses {
		t.Error(m)
	}
	if len(misses) == 0 {
		return
	}
	const stories = 3
	told := 0
	for e := range sum {
		for f := range sum[e] {
			for _, x := range sum[e][f].failed {
				if told++; told <= stories {
					t.Logf("world %d: %s\n%s", x.seed, x.what, tellWorld(x.seed, newAdapter, 60))
				}
			}
		}
	}
}

// TestWorldsNeedTrials shows that the worlds tell a Scheduler with rests and
// trials from one without.
func TestWorldsNeedTrials(t *testing.T) {
	n := race.Some(500)
	sum := playWorlds(n, 1, newWithoutTrials)
	if all := sum.sum(); all.onTime() > 98 {
		t.Errorf("without rests and trials heads are late in %d of %d worlds, want 2 %% or more\n%v", all.late, n, sum)
	}
}

// TestWorldsAreDrawnAlike holds that a seed is enough to play a world again.
func TestWorldsAreDrawnAlike(t *testing.T) {
	for seed := uint64(1); seed <= uint64(race.Some(20)); seed++ {
		if a, b := tellWorld(seed, newAdapter, math.MaxInt), tellWorld(seed, newAdapter, math.MaxInt); a != b {
			t.Errorf("world %d is not the same when it is played again", seed)
		}
	}
}
