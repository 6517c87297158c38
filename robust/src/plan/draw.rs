//! Drawing plans: how often what is tried.

use super::{
    Action, Basis, Cut, Fault, Form, Freshness, From, Leg, Offer, Plan, REPLICAS, Shape, Step,
    Trouble, Watching,
};
use crate::rng::Rng;
use crate::selector::{COLORS, PHASES, Selector, TIERS};

/// In how many histories of a hundred some of their own past is compacted.
const COMPACTED: u64 = 50;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, offer: &Offer) -> Self {
        let mut rng = Rng::new(seed);
        let mut replicas: Vec<usize> = (0..REPLICAS).collect();
        let count = rng.within(2, 4);
        while u64::try_from(replicas.len()).unwrap_or(0) > count {
            let index = rng.index(replicas.len());
            replicas.remove(index);
        }
        let names: Vec<String> = (0..rng.within(2, 5)).map(|n| format!("w{n}")).collect();
        let mut draft = Draft {
            rng,
            replicas,
            names,
        };
        let clients: Vec<Vec<Step>> = (0..draft.rng.within(5, 8))
            .map(|_| draft.client())
            .collect();
        let watchers = (0..draft.rng.within(4, 7))
            .map(|_| draft.watcher())
            .collect();
        let steps = clients.iter().map(Vec::len).sum::<usize>();
        let faults = draft.faults(u64::try_from(steps).unwrap_or(0), offer);
        let disks = [(3, 0), (2, 2_000), (3, 20_000)];
        let disk = draft.rng.weighted(&disks).unwrap_or(0);
        Self {
            seed,
            replicas: draft.replicas,
            names: draft.names,
            clients,
            watchers,
            faults,
            disk,
        }
    }
}

struct Draft {
    rng: Rng,
    replicas: Vec<usize>,
    names: Vec<String>,
}

impl Draft {
    fn replica(&mut self) -> usize {
        self.rng.pick(&self.replicas).unwrap_or(0)
    }

    fn client(&mut self) -> Vec<Step> {
        let count = self.rng.within(20, 35);
        let slowness = self.rng.within(5, 60);
        (0..count)
            .map(|_| Step {
                pause: self.rng.below(slowness),
                replica: self.replica(),
                name: self.rng.pick(&self.names).unwrap_or_default(),
                action: self.action(),
            })
            .collect()
    }

    fn shape(&mut self) -> Shape {
        let tier = self.rng.pick(&TIERS).filter(|_| self.rng.chance(70));
        Shape {
            tier: tier.map(ToOwned::to_owned),
            color: self.rng.pick(&COLORS).unwrap_or_default().to_owned(),
            replicas: u8::try_from(self.rng.below(6)).unwrap_or(0),
        }
    }

    fn basis(&mut self) -> Basis {
        let choices = [
            (4, Basis::Fresh),
            (3, Basis::Known),
            (2, Basis::Stale),
            (4, Basis::None),
        ];
        self.rng.weighted(&choices).unwrap_or(Basis::None)
    }

    fn form(&mut self) -> Form {
        let forms = [Form::Put, Form::Merge, Form::Json];
        self.rng.pick(&forms).unwrap_or(Form::Put)
    }

    fn freshness(&mut self) -> Freshness {
        let choices = [
            (4, Freshness::Consistent),
            (2, Freshness::Any),
            (2, Freshness::NotOlderThan),
            (3, Freshness::Exact),
        ];
        self.rng.weighted(&choices).unwrap_or(Freshness::Consistent)
    }

    fn action(&mut self) -> Action {
        match self.rng.below(100) {
            0..22 => Action::Create {
                shape: self.shape(),
                finalizer: self.rng.chance(10),
            },
            22..34 => Action::Put {
                basis: self.basis(),
                shape: self.shape(),
            },
            34..42 => Action::Merge {
                basis: self.basis(),
                shape: self.shape(),
            },
            42..50 => Action::Json {
                basis: self.basis(),
                test: self.rng.chance(30),
                shape: self.shape(),
            },
            50..57 => Action::Status {
                form: self.form(),
                basis: self.basis(),
                phase: self.rng.pick(&PHASES).unwrap_or_default().to_owned(),
            },
            57..63 => Action::Scale {
                form: self.form(),
                basis: self.basis(),
                replicas: u8::try_from(self.rng.below(6)).unwrap_or(0),
            },
            63..66 => Action::Release,
            66..69 => Action::OldMerge {
                basis: self.basis(),
                shape: self.shape(),
            },
            69..72 => Action::OldGet,
            72..78 => Action::Delete {
                basis: self.basis(),
                by_uid: self.rng.chance(40),
            },
            78..79 => Action::DeleteCollection {
                selector: Selector::draw(&mut self.rng, &self.names),
            },
            79..86 => Action::Get {
                fresh: self.rng.chance(80),
            },
            86..96 => Action::List {
                freshness: self.freshness(),
                selector: Selector::draw(&mut self.rng, &self.names),
                everywhere: self.rng.chance(20),
            },
            _ => Action::Pages {
                freshness: self.freshness(),
                selector: Selector::draw(&mut self.rng, &self.names),
                limit: u8::try_from(self.rng.within(1, 3)).unwrap_or(1),
            },
        }
    }

    fn watcher(&mut self) -> Watching {
        let starts = [
            (4, From::Beginning),
            (3, From::Seen),
            (1, From::Future),
            (1, From::State),
            (2, From::Streaming),
            (1, From::AnyState),
        ];
        let legs = (0..self.rng.within(2, 5)).map(|_| self.leg()).collect();
        Watching {
            pause: self.rng.below(400),
            from: self.rng.weighted(&starts).unwrap_or(From::Beginning),
            selector: Selector::draw(&mut self.rng, &self.names),
            everywhere: self.rng.chance(20),
            legs,
        }
    }

    fn leg(&mut self) -> Leg {
        let frames = self.rng.within(1, 25);
        Leg {
            replica: self.replica(),
            seconds: self.rng.within(1, 3),
            frames: Some(frames).filter(|_| self.rng.chance(40)),
        }
    }

    fn faults(&mut self, steps: u64, offer: &Offer) -> Vec<Trouble> {
        let count = self
            .rng
            .weighted(&[(2, 0_u64), (6, 1), (3, 2)])
            .unwrap_or(0);
        let mut faults: Vec<Trouble> = (0..count)
            .map(|_| Trouble {
                after: self.rng.within(steps / 10, steps * 6 / 10),
                fault: self.fault(offer),
            })
            .collect();
        if self.rng.chance(COMPACTED) {
            faults.push(Trouble {
                after: self.rng.within(steps / 10, steps * 6 / 10),
                fault: Fault::Compact {
                    behind: self.rng.below(30),
                },
            });
        }
        faults.sort_by_key(|trouble| trouble.after);
        faults
    }

    fn fault(&mut self, offer: &Offer) -> Fault {
        // What comes after is the same whatever is drawn here, and whatever is offered.
        let after = Rng::new(self.rng.next());
        let fault = self.any_fault(offer);
        self.rng = after;
        fault
    }

    fn any_fault(&mut self, offer: &Offer) -> Fault {
        let replica = self.replica();
        match self.rng.below(100) {
            0..16 => Fault::Kill {
                replica,
                down: self.rng.below(300),
            },
            16..28 => Fault::Freeze {
                replica,
                hold: self.rng.within(100, 1500),
            },
            28..42 => Fault::CrashPostgres {
                down: self.rng.below(500),
            },
            42..52 => Fault::Terminate {
                nth: self.rng.below(12),
            },
            52..57 => Fault::KillBackend {
                nth: self.rng.below(12),
            },
            57..78 => Fault::CutCommit {
                replica,
                cut: self
                    .rng
                    .pick(&[Cut::Before, Cut::Midway, Cut::After])
                    .unwrap_or(Cut::After),
                times: self.rng.within(1, 4),
                deaf: self
                    .rng
                    .weighted(&[(5, 0), (3, 300), (1, 6000)])
                    .unwrap_or(0),
            },
            78..82 => Fault::Blackhole {
                replica,
                hold: self.rng.within(300, 4500),
            },
            82..87 => Fault::Delay {
                replica,
                late: self.rng.within(5, 75),
                hold: self.rng.within(300, 1000),
            },
            _ => match self.rng.pick(&offer.failpoints) {
                Some(name) => self.failpoint(replica, &name),
                None => Fault::Freeze {
                    replica,
                    hold: self.rng.within(100, 700),
                },
            },
        }
    }

    fn failpoint(&mut self, replica: usize, name: &str) -> Fault {
        let actions = ["error", "delay(300)", "panic", "exit"];
        let action = self.rng.pick(&actions).unwrap_or("error");
        Fault::Failpoint {
            replica,
            setting: format!("{name}={action}"),
            hold: self.rng.within(300, 900),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
        let text = |seed| {
            let plan = Plan::draw(seed, &Offer::default());
            serde_json::to_string(&plan).unwrap()
        };
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
    }

    #[test]
    fn every_kind_of_action_start_and_fault_is_drawn() {
        let offer = Offer {
            failpoints: vec!["somewhere".to_owned()],
        };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let plan = Plan::draw(seed, &offer);
            assert!((2..=4).contains(&plan.replicas.len()));
            assert!((5..=8).contains(&plan.clients.len()));
            let word = |text: String| text.split([' ', '{', '(']).next().unwrap().to_owned();
            for step in plan.clients.iter().flatten() {
                assert!(plan.replicas.contains(&step.replica));
                seen.insert(word(format!("{:?}", step.action)));
            }
            seen.extend(plan.watchers.iter().map(|w| word(format!("{:?}", w.from))));
            seen.extend(plan.faults.iter().map(|t| word(format!("{:?}", t.fault))));
        }
        assert_eq!(seen.len(), 14 + 6 + 10, "{seen:?}");
    }
}
