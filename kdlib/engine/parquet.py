"""Rows out of Parquet files, with errors that name the file."""


def read_parquet(files: list, where: str):
    """The rows of Parquet files as one `datasets.Dataset`.

    ValueError when there are no rows, and for a damaged file, by name. where: of the files, for the
    message.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    for file in files:
        try:
            # The footer alone, which is written last: a file that was cut off has none.
            count += pq.read_metadata(file).num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{file} is no whole Parquet file ({error}); fetch or copy it again"
            ) from error
    if not count:
        raise ValueError(f"{where} is empty")
    try:
        return datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:
        # The footer can be whole and a page in the middle not; only reading shows that.
        _name_the_damaged(files, error)
        raise


def sample(data, rows: int):
    """The first `rows` of a `datasets.Dataset` after a fixed shuffle; 0: all, in their order."""
    if not 0 < rows < len(data):
        return data
    # Shuffled first: a corpus may be sorted by source, and its first rows are then no sample.
    # Always with seed 0: runs with other seeds must differ in training, not in data.
    return data.shuffle(seed=0).select(range(rows))


def _name_the_damaged(files: list, cause: Exception) -> None:
    """`datasets` does not say which file is damaged: read them one by one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            pq.read_table(file)
        except (pa.ArrowException, OSError) as damage:
            raise ValueError(f"{file} is damaged ({damage}); fetch or copy it again") from cause
