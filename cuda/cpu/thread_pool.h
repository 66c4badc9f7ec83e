// SPDX-License-Identifier: GPL-3.0-or-later
// Threads shared by all calls into the core.
#pragma once

#include <cstdint>

namespace peel {

// Threads for a request: itself if positive, else $PEEL4D_THREADS, else the cores this process may
// run on.
int resolve_threads(int requested);

// Calls function(context, task, worker) for every task in [0, tasks), on at most `threads` threads
// of which the caller is one (worker 0; workers are below `threads`). Tasks are taken in no fixed
// order, so they must not depend on each other. Returns when all are done. Throws std::bad_alloc
// when a task did, std::runtime_error on any other exception of a task.
void parallel_for_raw(int threads, int64_t tasks, void (*function)(void*, int64_t, int),
                      void* context);

template <class Function>
void parallel_for(int threads, int64_t tasks, Function&& function) {
  parallel_for_raw(
      threads, tasks,
      [](void* context, int64_t task, int worker) {
        (*static_cast<Function*>(context))(task, worker);
      },
      &function);
}

}  // namespace peel
