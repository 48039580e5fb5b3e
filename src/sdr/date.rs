//! Dates as sets: season, day of the week, weekend and time of day side by side.

use super::scalar::ScalarEncoder;
use super::set::Sdr;
use crate::error::{Error, Result};

/// A date and time of day as plain fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Days since 1 January, from 0 to 365.
    pub day_of_year: u32,
    /// From 0, Monday, to 6, Sunday.
    pub day_of_week: u32,
    /// Seconds since midnight, below 86,400.
    pub second_of_day: u32,
}

impl Date {
    /// From a date of the Gregorian calendar (years from 1 on, months and days from 1) and
    /// hours, minutes and seconds.
    pub fn new(year: u32, month: u32, day: u32, time: (u32, u32, u32)) -> Result<Self> {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let lengths = [
            31,
            28 + u32::from(leap),
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
            31,
        ];
        let in_month = (1..=12).contains(&month) && day >= 1 && day <= lengths[month as usize - 1];
        let (hour, minute, second) = time;
        let in_day = hour < 24 && minute < 60 && second < 60;
        if !(1..=999_999).contains(&year) || !in_month || !in_day {
            return Err(Error::invalid(format!(
                "no such date: {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
            )));
        }
        let day_of_year = lengths[..month as usize - 1].iter().sum::<u32>() + day - 1;
        // 1 January of year 1 was a Monday; a year has 52 weeks and a day.
        let before = year - 1;
        let days = before + before / 4 - before / 100 + before / 400 + day_of_year;
        Ok(Self {
            day_of_year,
            day_of_week: days % 7,
            second_of_day: (hour * 60 + minute) * 60 + second,
        })
    }
}

/// A date as the sets of its aspects, concatenated (Purdy 2016, section 6). An aspect
/// of no active bits is left out.
///
/// * season: the day on a circle of 366 buckets, each as wide as a day;
/// * day of the week: a circle of 7 · w buckets, w to the day, so that neighbouring days
///   share no bits at noon and half of them at midnight;
/// * weekend: w bits for Saturday and Sunday, w others for the rest;
/// * time of day: a circle of 1,440 buckets, one to the minute, or 4 · w if that is more.
#[derive(Clone, Debug)]
pub struct DateEncoder {
    season: Option<ScalarEncoder>,
    weekday: Option<ScalarEncoder>,
    weekend: usize,
    time: Option<ScalarEncoder>,
}

impl DateEncoder {
    /// Active bits of the four aspects.
    pub fn new(season: usize, weekday: usize, weekend: usize, time: usize) -> Result<Self> {
        let circle = |length: f64, buckets: usize, active: usize| match active {
            0 => Ok(None),
            active => ScalarEncoder::periodic(0.0, length, buckets, active).map(Some),
        };
        let encoder = Self {
            season: circle(366.0, 366, season)?,
            weekday: circle(7.0, weekday.saturating_mul(7), weekday)?,
            weekend,
            time: circle(86_400.0, time.saturating_mul(4).max(1440), time)?,
        };
        super::set::check_bits(encoder.weekend.saturating_mul(2))?;
        if encoder.bits() == 0 {
            return Err(Error::invalid("a date encoder without any active bit"));
        }
        Ok(encoder)
    }

    fn circles(&self) -> [&Option<ScalarEncoder>; 3] {
        [&self.season, &self.weekday, &self.time]
    }

    /// n.
    pub fn bits(&self) -> usize {
        let circles = self.circles().into_iter().flatten();
        circles.map(ScalarEncoder::bits).sum::<usize>() + 2 * self.weekend
    }

    /// The set of a date. Fields outside their range are refused.
    pub fn encode(&self, date: &Date) -> Result<Sdr> {
        let Date {
            day_of_year,
            day_of_week,
            second_of_day,
        } = *date;
        if day_of_year > 365 || day_of_week > 6 || second_of_day >= 86_400 {
            return Err(Error::invalid(format!("no such date: {date:?}")));
        }
        let hour = f64::from(second_of_day) / 86_400.0;
        let mut sets = Vec::new();
        if let Some(season) = &self.season {
            sets.push(season.encode(f64::from(day_of_year))?);
        }
        if let Some(weekday) = &self.weekday {
            // Half a day back: at noon the bits are the day's own.
            sets.push(weekday.encode(f64::from(day_of_week) + hour - 0.5)?);
        }
        if self.weekend > 0 {
            let first = if day_of_week >= 5 { self.weekend } else { 0 };
            let active = (first..first + self.weekend).map(|i| i as u32).collect();
            sets.push(Sdr::from_sorted(2 * self.weekend, active)?);
        }
        if let Some(time) = &self.time {
            sets.push(time.encode(f64::from(second_of_day))?);
        }
        Sdr::concat(&sets)
    }
}
