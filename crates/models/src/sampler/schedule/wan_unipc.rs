//! The grid of UniPC in the original Wan2.2 code: from 0.999 down, shifted, in equal steps before the
//! shift; timesteps are whole.

use super::{Grid, shifted, with_integer_timesteps};

pub(super) fn grid(steps: usize, shift: f64) -> Grid {
    let first = f64::from(0.999_f32);
    let sigma = |i: usize| shifted(first * (1.0 - i as f64 / steps as f64), shift);
    with_integer_timesteps((0..steps).map(sigma).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::schedule;
    use super::super::{Reference, SamplerKind, Schedule};

    fn wan(steps: usize, shift: f64) -> Schedule {
        schedule(SamplerKind::UniPc, Reference::Wan, steps, shift)
    }

    /// Specification `wan22` 5.2: the lists of the three A14B tasks.
    #[test]
    fn timesteps_of_the_original() {
        let t2v = wan(40, 12.0);
        let expected = "999 997 995 993 990 988 985 982 979 976 972 969 965 961 956 952 947 941 \
             936 929 922 915 907 898 888 877 865 852 837 819 799 776 749 717 678 631 571 492 386 235";
        assert_eq!(as_text(&t2v), expected);
        assert_eq!(t2v.steps_above(0.875), 26);

        let i2v = wan(40, 5.0);
        let expected = "999 994 989 983 978 972 965 959 952 944 937 929 920 911 902 892 882 870 \
             859 846 833 818 803 786 768 749 728 706 681 654 624 591 555 514 468 416 356 288 208 113";
        assert_eq!(as_text(&i2v), expected);
        assert_eq!(i2v.steps_above(0.9), 15);

        let m2v = wan(40, 4.0);
        let expected = "999 993 986 979 972 965 957 949 940 932 922 913 902 892 881 869 856 843 \
             829 815 799 783 765 746 726 705 682 657 631 602 571 536 499 458 413 363 307 244 173 92";
        assert_eq!(as_text(&m2v), expected);
        assert_eq!(m2v.steps_above(0.9), 13);
        assert!((m2v.sigmas()[0] - 0.999_749_8).abs() < 1e-6);
        assert!((m2v.sigmas()[39] - 0.092_936_7).abs() < 1e-6);

        let five_b = wan(50, 5.0);
        assert_eq!(five_b.timesteps()[..4], [999.0, 995.0, 991.0, 987.0]);
        assert_eq!(five_b.timesteps()[47..], [241.0, 172.0, 92.0]);
    }

    fn as_text(schedule: &Schedule) -> String {
        let numbers: Vec<String> = schedule.timesteps().iter().map(f64::to_string).collect();
        numbers.join(" ")
    }
}
