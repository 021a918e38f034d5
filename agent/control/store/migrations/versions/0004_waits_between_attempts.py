"""Waits between attempts"""

from alembic import op
import sqlalchemy as sa


revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

_DEFERRED = sa.text('not_before IS NOT NULL')


def upgrade() -> None:
    op.add_column('items', sa.Column('not_before', sa.Double(), nullable=True))
    op.create_index(
        'ix_items_deferred', 'items', ['not_before'],
        sqlite_where=_DEFERRED, postgresql_where=_DEFERRED,
    )


def downgrade() -> None:
    op.drop_index('ix_items_deferred', table_name='items')
    op.drop_column('items', 'not_before')
